//! What a run says of the system.

use std::fmt;

/// Valid, invalid or unknown; unknown does not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing that was promised was broken. Says what was looked at.
    Valid(String),
    /// A promise was broken. Says which.
    Invalid(String),
    /// The run does not show either.
    Unknown(String),
}

impl Verdict {
    /// The exit code of a run: 0, 1 or 2.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Valid(_) => 0,
            Self::Invalid(_) => 1,
            Self::Unknown(_) => 2,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Valid(why) => write!(out, "valid: {why}"),
            Self::Invalid(why) => write!(out, "INVALID: {why}"),
            Self::Unknown(why) => write!(out, "unknown: {why}"),
        }
    }
}
