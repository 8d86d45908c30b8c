//! The envelope of every file of the bus: a header with kind and format version, blocks with length and checksum, an end mark.
//!
//! ```text
//! "PrtBus" kind:u8 version:u8 | length:u32 crc32:u32 bytes... | ... | 0:u32 summary:u32
//! ```
//! Numbers are little-endian. The checksum of a block covers its length and bytes; the summary covers the checksums of all blocks in
//! order, and is the file's own checksum. A file that was cut off has no end mark; one that goes on after it is damaged too.

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::Path;

use bytes::Bytes;

use super::state::StateError;

/// Writers begin a new block at about this many bytes.
pub(super) const BLOCK_BYTES: usize = 256 << 10;

/// No block is larger: a longer length is a damaged one, and is not allocated.
const BLOCK_BYTES_MAX: u32 = 256 << 20;

const MAGIC: &[u8; 6] = b"PrtBus";
const VERSION: u8 = 1;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Entries of a stream.
    Segment = 1,
    /// Message ids.
    Seen = 2,
    /// All else of a snapshot.
    State = 3,
}

/// By which a whole file is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileCheck {
    /// Length.
    pub bytes: u64,
    /// The summary in its end mark.
    pub checksum: u32,
}

/// Writes one file.
pub(super) struct Writer<'a> {
    path: &'a Path,
    out: BufWriter<File>,
    bytes: u64,
    summary: crc32fast::Hasher,
}

impl<'a> Writer<'a> {
    /// A new file; there must be none at `path`.
    pub fn create(path: &'a Path, kind: Kind) -> Result<Writer<'a>, StateError> {
        let file = File::create_new(path).map_err(|error| StateError::io("create", path, error))?;
        let mut writer = Writer { path, out: BufWriter::with_capacity(64 << 10, file), bytes: 0, summary: crc32fast::Hasher::new() };
        let mut header = [0; 8];
        header[..6].copy_from_slice(MAGIC);
        header[6] = kind as u8;
        header[7] = VERSION;
        writer.put(&header)?;
        Ok(writer)
    }

    /// Appends a block; an empty one is not written.
    pub fn block(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(bytes.len())
            .ok()
            .filter(|length| *length <= BLOCK_BYTES_MAX)
            .ok_or_else(|| StateError::Unsupported(format!("a block of {} bytes does not fit {}", bytes.len(), self.path.display())))?;
        let checksum = block_checksum(length, bytes);
        self.summary.update(&checksum.to_le_bytes());
        self.put(&length.to_le_bytes())?;
        self.put(&checksum.to_le_bytes())?;
        self.put(bytes)
    }

    /// Writes the end mark; with `sync` the bytes are on disk when this returns.
    pub fn finish(mut self, sync: bool) -> Result<FileCheck, StateError> {
        let checksum = self.summary.clone().finalize();
        self.put(&0_u32.to_le_bytes())?;
        self.put(&checksum.to_le_bytes())?;
        let path = self.path;
        let file = self.out.into_inner().map_err(|error| StateError::io("write", path, error.into_error()))?;
        if sync {
            file.sync_all().map_err(|error| StateError::io("sync", path, error))?;
        }
        Ok(FileCheck { bytes: self.bytes, checksum })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|error| StateError::io("write", self.path, error))
    }
}

/// Reads a file block by block and checks all of it. `expected` is what another file says of this one.
pub(super) fn read(
    path: &Path,
    kind: Kind,
    expected: Option<FileCheck>,
    mut each: impl FnMut(Bytes) -> Result<(), StateError>,
) -> Result<FileCheck, StateError> {
    let damaged = |what: &str| StateError::damaged(path, what);
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => damaged("it is missing"),
        _ => StateError::io("open", path, error),
    })?;
    let length = file.metadata().map_err(|error| StateError::io("open", path, error))?.len();
    if expected.is_some_and(|expected| expected.bytes != length) {
        return Err(damaged("it has another length than it should have"));
    }
    let mut input = BufReader::with_capacity(64 << 10, file);
    let mut get = |buffer: &mut [u8]| {
        input.read_exact(buffer).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => damaged("it is cut off"),
            _ => StateError::io("read", path, error),
        })
    };
    let mut header = [0; 8];
    get(&mut header)?;
    if &header[..6] != MAGIC || header[6] != kind as u8 {
        return Err(damaged("it is no such file"));
    }
    if header[7] != VERSION {
        return Err(StateError::Unsupported(format!("{} has format {}, this is {VERSION}", path.display(), header[7])));
    }
    let mut summary = crc32fast::Hasher::new();
    let mut at = 8_u64;
    loop {
        let (mut size, mut checksum) = ([0; 4], [0; 4]);
        get(&mut size)?;
        get(&mut checksum)?;
        at += 8;
        let (size, checksum) = (u32::from_le_bytes(size), u32::from_le_bytes(checksum));
        if size == 0 {
            if checksum != summary.finalize() {
                return Err(damaged("its summary does not match"));
            }
            if at != length {
                return Err(damaged("it goes on after its end"));
            }
            if expected.is_some_and(|expected| expected.checksum != checksum) {
                return Err(damaged("it has another checksum than it should have"));
            }
            return Ok(FileCheck { bytes: length, checksum });
        }
        if size > BLOCK_BYTES_MAX || at + u64::from(size) > length {
            return Err(damaged("it is cut off"));
        }
        let mut block = vec![0; size as usize];
        get(&mut block)?;
        at += u64::from(size);
        if block_checksum(size, &block) != checksum {
            return Err(damaged("a block's checksum does not match"));
        }
        summary.update(&checksum.to_le_bytes());
        each(block.into())?;
    }
}

fn block_checksum(length: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// Makes names in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> Result<(), StateError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| StateError::io("sync", directory, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(path: &Path) -> Result<Vec<Bytes>, StateError> {
        let mut found = Vec::new();
        read(path, Kind::Seen, None, |block| {
            found.push(block);
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("file");
        let mut writer = Writer::create(&path, Kind::Seen).expect("create");
        for block in [&b"one"[..], b"", b"twotwo", b"3"] {
            writer.block(block).expect("block");
        }
        let check = writer.finish(true).expect("finish");
        let whole = std::fs::read(&path).expect("read");
        assert_eq!(check.bytes, whole.len() as u64);
        assert_eq!(blocks(&path).expect("whole"), [&b"one"[..], b"twotwo", b"3"]);
        assert!(read(&path, Kind::Segment, None, |_| Ok(())).is_err(), "another kind");
        let other = FileCheck { checksum: check.checksum ^ 1, ..check };
        assert!(read(&path, Kind::Seen, Some(other), |_| Ok(())).is_err(), "another checksum");

        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("write");
            assert!(matches!(blocks(&path), Err(StateError::Damaged { .. })), "cut at {cut}");
        }
        for bit in 0..whole.len() * 8 {
            let mut broken = whole.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &broken).expect("write");
            assert!(blocks(&path).is_err(), "bit {bit} flipped");
        }
        let mut longer = whole.clone();
        longer.push(0);
        std::fs::write(&path, &longer).expect("write");
        assert!(blocks(&path).is_err(), "goes on");
    }
}
