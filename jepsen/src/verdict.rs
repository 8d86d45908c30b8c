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
    /// Both, as one: the worse of them, or what either says where both are valid.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Invalid(a), Self::Invalid(b)) => Self::Invalid(format!("{a}; {b}")),
            (Self::Invalid(why), _) | (_, Self::Invalid(why)) => Self::Invalid(why),
            (Self::Unknown(a), Self::Unknown(b)) => Self::Unknown(format!("{a}; {b}")),
            (Self::Unknown(why), _) | (_, Self::Unknown(why)) => Self::Unknown(why),
            (Self::Valid(a), Self::Valid(b)) => Self::Valid(format!("{a}; {b}")),
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_of_two_is_what_both_say() {
        let (valid, unknown) = (Verdict::Valid("v".to_owned()), Verdict::Unknown("u".to_owned()));
        let invalid = Verdict::Invalid("i".to_owned());
        assert_eq!(valid.clone().and(unknown.clone()), unknown);
        assert_eq!(unknown.and(invalid.clone()), invalid);
        assert_eq!(valid.clone().and(valid), Verdict::Valid("v; v".to_owned()));
    }
}
