//! Faults below the C library of one node: its clock, its `fsync`, and what a power loss leaves of its files. A library
//! goes into the process with `LD_PRELOAD`; a control file that both map tells it what to do and tells us what it did.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::time::{ClockId, clock_gettime};
use rand::Rng;
use tempfile::TempDir;

use crate::native;

/// Names the control file to the library.
pub(crate) const CONTROL_VARIABLE: &str = "JEPSEN_FAULTS";

/// The attribute in which the library keeps how much of a file is synced.
const SYNCED: &str = "user.jepsen.synced";

/// How much of what was being written a torn write may garble: one sector.
const SECTOR: u64 = 512;

/// The compiled library.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    _directory: TempDir,
}

impl Library {
    /// Compiles it.
    ///
    /// # Errors
    /// There is no C compiler.
    pub fn build() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("praetor-preload-").tempdir()?;
        Ok(Self { path: native::PRELOAD.compile(directory.path())?, _directory: directory })
    }

    /// For `LD_PRELOAD`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The words of the control file, as `struct control` in preload.c has them.
#[derive(Clone, Copy)]
enum Word {
    OffsetNanos,
    AnchorNanos,
    DriftPpm,
    DelayMicros,
    Fail,
    Syncs,
    Delayed,
    Failed,
    ClockReads,
}

/// The faults of one node. They stay over its restarts.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    file: File,
}

impl Control {
    /// Without a fault yet.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: PathBuf) -> anyhow::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        file.set_len(4096)?;
        Ok(Self { path, file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the node's clock wrong: by an offset in milliseconds, and by so many millionths more with each moment from now.
    ///
    /// # Errors
    /// The control file cannot be written.
    pub fn set_clock(&self, offset_millis: i64, drift_ppm: i64) -> anyhow::Result<()> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        self.write(Word::AnchorNanos, now.tv_sec() * 1_000_000_000 + now.tv_nsec())?;
        self.write(Word::DriftPpm, drift_ppm)?;
        self.write(Word::OffsetNanos, offset_millis * 1_000_000)
    }

    /// Every sync takes so much longer.
    ///
    /// # Errors
    /// The control file cannot be written.
    pub fn set_slow(&self, delay: Duration) -> anyhow::Result<()> {
        self.write(Word::DelayMicros, delay.as_micros() as i64)
    }

    /// Whether every sync fails, with an input/output error.
    ///
    /// # Errors
    /// The control file cannot be written.
    pub fn set_failing(&self, failing: bool) -> anyhow::Result<()> {
        self.write(Word::Fail, i64::from(failing))
    }

    /// Syncs so far.
    ///
    /// # Errors
    /// The control file cannot be read.
    pub fn syncs(&self) -> anyhow::Result<u64> {
        self.read(Word::Syncs)
    }

    /// Syncs that were made slow so far.
    ///
    /// # Errors
    /// The control file cannot be read.
    pub fn delayed(&self) -> anyhow::Result<u64> {
        self.read(Word::Delayed)
    }

    /// Syncs that were made to fail so far.
    ///
    /// # Errors
    /// The control file cannot be read.
    pub fn failed(&self) -> anyhow::Result<u64> {
        self.read(Word::Failed)
    }

    /// How often the node was told a wrong time so far.
    ///
    /// # Errors
    /// The control file cannot be read.
    pub fn wrong_times(&self) -> anyhow::Result<u64> {
        self.read(Word::ClockReads)
    }

    fn write(&self, word: Word, value: i64) -> anyhow::Result<()> {
        Ok(self.file.write_all_at(&value.to_ne_bytes(), word as u64 * 8)?)
    }

    fn read(&self, word: Word) -> anyhow::Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, word as u64 * 8)?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

/// What a power loss took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Files that had more in them than was synced.
    pub files: u64,
    /// Bytes that are gone.
    pub bytes: u64,
    /// Files that keep a part of what was not synced, its end garbled.
    pub torn: u64,
}

/// Takes from all files below `directory` what was not synced, as a power loss may; no process may use them. With
/// `tear`, a file keeps some of it, as a disk does that was writing when the power went: the last sector holds anything.
///
/// What this does not do: undo a rename, a creation or a removal whose directory was not synced; undo an overwrite.
///
/// # Errors
/// A file cannot be read or cut.
pub fn lose_power(directory: &Path, tear: bool, chance: &mut impl Rng) -> anyhow::Result<Loss> {
    let mut loss = Loss::default();
    let mut left = vec![directory.to_owned()];
    let mut files = Vec::new();
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(&next).with_context(|| next.display().to_string())? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    for path in files {
        let length = path.metadata()?.len();
        let synced = synced_length(&path)?.min(length);
        if synced == length {
            continue;
        }
        let kept = if tear { chance.random_range(0..=length - synced) } else { 0 };
        let file = File::options().write(true).open(&path)?;
        file.set_len(synced + kept)?;
        if kept > 0 {
            let garbled = kept.min(SECTOR);
            let bytes: Vec<u8> = (0..garbled).map(|_| chance.random()).collect();
            file.write_all_at(&bytes, synced + kept - garbled)?;
            loss.torn += 1;
        }
        loss.files += 1;
        loss.bytes += length - synced - kept;
    }
    Ok(loss)
}

fn synced_length(path: &Path) -> anyhow::Result<u64> {
    let mut bytes = [0_u8; 8];
    match rustix::fs::getxattr(path, SYNCED, &mut bytes) {
        Ok(8) => Ok(u64::from_ne_bytes(bytes)),
        // It was never synced.
        Err(rustix::io::Errno::NODATA) => Ok(0),
        other => anyhow::bail!("the attribute {SYNCED} of {}: {other:?}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const WRITE_AND_SYNC: &str = "import os, sys\n\
        f = os.open(sys.argv[1] + '/new', os.O_CREAT | os.O_WRONLY); os.write(f, b'kept'); os.fdatasync(f); os.write(f, b'lost')\n\
        os.rename(sys.argv[1] + '/new', sys.argv[1] + '/log')\n\
        os.write(os.open(sys.argv[1] + '/never', os.O_CREAT | os.O_WRONLY), b'lost')";

    /// Has a process write with the library in it; gives the directory and what it was made to do.
    fn written() -> (TempDir, Library, Control) {
        let directory = tempfile::tempdir().expect("a directory");
        let library = Library::build().expect("a C compiler");
        let control = Control::create(directory.path().join("control")).expect("a file");
        fs::create_dir(directory.path().join("data")).expect("a directory");
        let status = std::process::Command::new("python3")
            .args(["-c", WRITE_AND_SYNC])
            .arg(directory.path().join("data"))
            .env("LD_PRELOAD", library.path())
            .env(CONTROL_VARIABLE, control.path())
            .status();
        assert!(status.expect("python3 is there").success());
        (directory, library, control)
    }

    #[test]
    fn a_power_loss_leaves_what_was_synced_and_nothing_else() {
        let (directory, _library, control) = written();
        let data = directory.path().join("data");
        assert_eq!(control.syncs().expect("readable"), 1);
        let loss = lose_power(&data, false, &mut StdRng::seed_from_u64(1)).expect("it cuts");
        assert_eq!(loss, Loss { files: 2, bytes: 8, torn: 0 });
        assert_eq!(fs::read(data.join("log")).expect("there"), b"kept");
        assert_eq!(fs::read(data.join("never")).expect("there"), b"");
        // Once it is gone there is no more to lose.
        assert_eq!(lose_power(&data, false, &mut StdRng::seed_from_u64(1)).expect("it cuts"), Loss::default());
    }

    #[test]
    fn a_torn_write_keeps_what_was_synced_and_garbles_the_rest() {
        for seed in 0..20 {
            let (directory, _library, _control) = written();
            let data = directory.path().join("data");
            let loss = lose_power(&data, true, &mut StdRng::seed_from_u64(seed)).expect("it cuts");
            let left = fs::read(data.join("log")).expect("there");
            assert!(left.starts_with(b"kept") && left.len() <= 8 && !left.starts_with(b"keptlost"), "{left:?}");
            if loss.torn > 0 {
                return;
            }
        }
        panic!("in 20 tries nothing was torn");
    }
}
