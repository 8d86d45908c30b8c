//! Who navigates, and where he is sent.

use axum::http::{HeaderMap, header};
use percent_encoding::percent_decode_str;

use super::{Generation, UiFiles};

/// The cookie in which the UI keeps the user's choice.
const COOKIE: &str = "prefect_ui_version";

impl UiFiles {
    /// Where a browser that navigates to `path` should be instead, if elsewhere: the base path belongs to the preferred
    /// generation, and what belongs to a generation that is not served to the one that is.
    pub(super) fn preferred_path(&self, path: &str, headers: &HeaderMap) -> Option<String> {
        if path.ends_with("/ui-settings") || self.available().is_empty() {
            return None;
        }
        let (requested, inside) = match below(path, &self.v2.base) {
            Some(inside) if self.v2.directory.is_none() => (Generation::V2, inside),
            Some(_) => return None,
            None => match below(path, &self.v1.base)? {
                inside @ ("" | "/") => (Generation::V1, inside),
                _ => return None,
            },
        };
        let chosen = cookie(headers).and_then(|name| self.available().into_iter().find(|generation| generation.name() == name));
        let preferred = chosen.unwrap_or_else(|| self.default_generation());
        (preferred != requested).then(|| {
            // One slash: two would name another host.
            format!("{}/{}", self.bundle(preferred).base, inside.trim_start_matches('/'))
        })
    }
}

/// What follows `base` in `path`: empty or beginning with a slash; `None` outside of it.
pub(super) fn below<'a>(path: &'a str, base: &str) -> Option<&'a str> {
    path.strip_prefix(base).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a person's browser asks for a page, and not a page for its parts.
pub(super) fn is_html(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text("sec-fetch-mode") == "navigate"
        || matches!(text("sec-fetch-dest"), "document" | "iframe")
        || text("accept").to_ascii_lowercase().contains("text/html")
}

/// Whether the start page is a fitting answer in place of a file that is not there.
pub(super) fn accepts_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|one| {
        let mut parts = one.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts.find_map(|part| part.strip_prefix("q=")?.trim().parse::<f32>().ok()).unwrap_or(1.0);
        matches!(kind.as_str(), "text/html" | "application/xhtml+xml") && quality != 0.0
    })
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value.trim_matches('"'))
}

/// The segments of a path, decoded, with `.` and `..` resolved; `None` where a segment is no name of a file.
pub(super) fn segments(path: &str) -> Option<Vec<String>> {
    let path = percent_decode_str(path).decode_utf8().ok()?;
    let mut segments: Vec<String> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()?),
            name if name.contains(['\0', '\\']) => return None,
            name => segments.push(name.to_owned()),
        }
    }
    Some(segments)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::super::Bundle;
    use super::*;

    fn files(v1: bool, v2: bool) -> UiFiles {
        let bundle = |base: &str, there: bool| Bundle { base: base.to_owned(), directory: there.then(|| "/files".into()) };
        UiFiles { v1: bundle("/p", v1), v2: bundle("/p/v2", v2), preferred: Generation::V2 }
    }

    fn sent(files: &UiFiles, path: &str, cookie: &'static str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_static(cookie));
        files.preferred_path(path, &headers)
    }

    #[test]
    fn the_base_path_belongs_to_the_preferred_generation() {
        let both = files(true, true);
        assert_eq!(sent(&both, "/p", "").as_deref(), Some("/p/v2/"));
        assert_eq!(sent(&both, "/p/", "a=b").as_deref(), Some("/p/v2/"));
        assert_eq!(sent(&both, "/p/", "prefect_ui_version=v1"), None);
        assert_eq!(sent(&both, "/p/", "prefect_ui_version=v3").as_deref(), Some("/p/v2/"));
        for elsewhere in ["/p/runs", "/p/v2", "/p/v2/runs", "/p/ui-settings", "/other", "/"] {
            assert_eq!(sent(&both, elsewhere, ""), None, "{elsewhere}");
        }
    }

    #[test]
    fn what_is_not_served_is_sent_to_what_is() {
        assert_eq!(sent(&files(true, false), "/p/v2/runs", "").as_deref(), Some("/p/runs"));
        assert_eq!(sent(&files(true, false), "/p/v2", "prefect_ui_version=v2").as_deref(), Some("/p/"));
        assert_eq!(sent(&files(true, false), "/p/", ""), None);
        assert_eq!(sent(&files(false, true), "/p/", "prefect_ui_version=v1").as_deref(), Some("/p/v2/"));
        assert_eq!(sent(&files(false, false), "/p/", ""), None);
    }

    #[test]
    fn no_path_leaves_the_directory() {
        assert_eq!(segments("/assets/a%20b.js"), Some(vec!["assets".to_owned(), "a b.js".to_owned()]));
        assert_eq!(segments("//assets/./x/../y"), Some(vec!["assets".to_owned(), "y".to_owned()]));
        for outside in ["/..", "/a/../../b", "/%2e%2e/b", "/assets/..%2f..%2f..%2fb", "/a%00b", "/%ff", "/..\\b"] {
            assert_eq!(segments(outside), None, "{outside}");
        }
    }

    #[test]
    fn a_page_is_given_to_those_who_ask_for_one() {
        let accept = |text: &'static str| HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(text))]);
        assert!(accepts_html(&accept("application/json, text/html;q=0.8")));
        assert!(accepts_html(&accept("application/xhtml+xml")));
        for other in ["*/*", "application/json", "text/html; q=0", ""] {
            assert!(!accepts_html(&accept(other)), "{other}");
        }
    }
}
