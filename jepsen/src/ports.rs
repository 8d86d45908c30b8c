//! Ports for servers of tests: free now, outside of the range that the system hands out by itself, and not given to
//! another test at the same time, whichever process that is in.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, bail};
use rand::Rng;

/// Below Linux's range for outgoing connections (32768 and up), above what well-known servers use.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// A port that is ours until dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Takes one.
    ///
    /// # Errors
    /// None of many tried was free.
    pub fn take() -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join("praetor-test-ports");
        std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        for _ in 0..1000 {
            let number = rand::rng().random_range(RANGE);
            let lock = File::create(directory.join(number.to_string()))?;
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("of 1000 ports tried none was free")
    }

    /// The port's number.
    pub fn number(&self) -> u16 {
        self.number
    }
}
