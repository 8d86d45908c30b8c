//! Versions of clients, as far as rules differ by them.

use std::fmt;

/// Version of the API that a client speaks (`X-PREFECT-API-VERSION`).
pub type ApiVersion = (u64, u64, u64);

/// From here on flows are retried as a whole; before, their failed task runs were retried one by one.
pub const FLOW_RETRIES: ApiVersion = (0, 8, 3);
/// From here on there are pauses.
pub const PAUSES: ApiVersion = (0, 8, 4);

/// Clients that take slots of a deployment's limit by themselves.
const TAKES_SLOTS_ITSELF: [&str; 5] = ["3.0.0rc20", "3.0.0", "3.0.1", "3.0.2", "3.0.3"];
/// From here on clients renew the leases of their runs.
const RENEWS_LEASES: (u64, u64, u64) = (3, 4, 11);

/// Version of the Python client that asks, out of its `User-Agent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientVersion {
    text: String,
    release: (u64, u64, u64),
    /// An alpha, beta, candidate or development version: older than its release.
    before_release: bool,
}

impl ClientVersion {
    /// Reads `prefect/3.8.4 (API 0.8.4)`; nothing else is a Prefect client.
    pub fn of_user_agent(text: &str) -> Option<Self> {
        let (version, rest) = text.strip_prefix("prefect/")?.split_once(' ')?;
        let api = rest.strip_prefix("(API ")?.strip_suffix(')')?;
        let allowed = |letter: char| matches!(letter, 'a'..='z' | '0'..='9' | '.' | '+');
        if api.is_empty() || api.contains(char::is_whitespace) || !version.chars().all(allowed) {
            return None;
        }
        Self::parse(version)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut rest = text;
        let mut number = |first: bool| {
            if !first {
                rest = rest.strip_prefix('.')?;
            }
            let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
            let (digits, after) = rest.split_at(end);
            rest = after;
            digits.parse::<u64>().ok()
        };
        let release = (number(true)?, number(false)?, number(false)?);
        let public = rest.split('+').next().unwrap_or_default().trim_start_matches('.');
        let before_release = ["a", "b", "rc", "c", "dev", "pre"].iter().any(|word| public.starts_with(word));
        Some(Self { text: text.to_owned(), release, before_release })
    }

    /// True for clients which take slots of a deployment's limit by themselves.
    pub fn takes_slots_itself(&self) -> bool {
        TAKES_SLOTS_ITSELF.contains(&self.text.as_str())
    }

    /// True for clients which renew the leases of their runs.
    pub fn renews_leases(&self) -> bool {
        self.release > RENEWS_LEASES || (self.release == RENEWS_LEASES && !self.before_release)
    }
}

impl fmt::Display for ClientVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_prefect_client_has_a_version() {
        let of = |text: &str| ClientVersion::of_user_agent(text).map(|version| version.to_string());
        assert_eq!(of("prefect/3.8.4 (API 0.8.4)").as_deref(), Some("3.8.4"));
        assert_eq!(of("prefect/3.4.11.dev1+3.gabc (API 0.8.4)").as_deref(), Some("3.4.11.dev1+3.gabc"));
        for other in
            ["prefect/3.8 (API 0.8.4)", "prefect/3.8.4", "python-httpx/0.27", "prefect/3.8.4 (API 0.8.4) x", "prefect/x.y.z (API 1)"]
        {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn versions_are_ordered_as_pep_440_orders_them() {
        for (version, renews) in [
            ("3.4.10", false),
            ("3.4.11", true),
            ("3.4.11rc1", false),
            ("3.4.11.dev3", false),
            ("3.4.11.post1", true),
            ("3.4.11+2.gabc", true),
            ("3.4.12rc1", true),
            ("3.10.0", true),
            ("2.20.20", false),
        ] {
            assert_eq!(ClientVersion::parse(version).map(|version| version.renews_leases()), Some(renews), "{version}");
        }
        assert!(ClientVersion::parse("3.0.0rc20").is_some_and(|version| version.takes_slots_itself()));
        assert!(ClientVersion::parse("3.0.4").is_some_and(|version| !version.takes_slots_itself()));
    }
}
