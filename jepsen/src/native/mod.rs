//! What cannot be done from Rust without `unsafe`, or from outside of a process: two small C sources, compiled when a run
//! needs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// A library that puts faults below one process: see [`crate::preload`].
pub(crate) const PRELOAD: Source = Source { name: "preload", text: include_str!("preload.c"), flags: &["-shared", "-fPIC"] };

/// A cable that is slow and loses: see [`crate::net`].
pub(crate) const WIRE: Source = Source { name: "wire", text: include_str!("wire.c"), flags: &[] };

/// A C source.
pub(crate) struct Source {
    name: &'static str,
    text: &'static str,
    flags: &'static [&'static str],
}

impl Source {
    /// Compiles it into a directory; gives the file.
    ///
    /// # Errors
    /// There is no C compiler, or it refuses.
    pub(crate) fn compile(&self, into: &Path) -> anyhow::Result<PathBuf> {
        let (source, result) = (into.join(format!("{}.c", self.name)), into.join(self.name));
        std::fs::write(&source, self.text)?;
        let mut command = Command::new("cc");
        command.args(["-O2", "-Wall", "-Wextra"]).args(self.flags).arg("-o").arg(&result).arg(&source).arg("-ldl");
        let output = command.output().context("cc cannot be started; this fault needs a C compiler")?;
        ensure!(output.status.success(), "cc refuses {}.c:\n{}", self.name, String::from_utf8_lossy(&output.stderr));
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sources_compile_without_a_warning() {
        let directory = tempfile::tempdir().expect("a directory");
        for source in [PRELOAD, WIRE] {
            let flags = [source.flags, &["-Werror"]].concat().leak();
            Source { flags, ..source }.compile(directory.path()).expect("it compiles");
        }
    }
}
