//! One file of the UI as an answer: found inside its directory, with the base path in its text, and with what a browser
//! needs to keep it (`ETag`, `Last-Modified`) or to ask for a part (`Range`).

use std::fs::Metadata;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::navigation;
use crate::api::ApiError;

/// The page that starts the UI.
pub(super) const INDEX: &str = "index.html";

/// What stands for the base path in the published files.
const PLACEHOLDER: &str = "/PREFECT_UI_SERVE_BASE_REPLACE_PLACEHOLDER";

/// Endings of files that may hold it, as the reference has them.
const TEXTS: [&str; 5] = ["html", "js", "css", "json", "txt"];

/// Largest file that is served, in bytes; the largest published one has 11 million.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A file that a path leads to.
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// The path named the directory that it lies in.
    pub(super) is_directory: bool,
}

/// Looks up a path below `root`. Nothing outside of it is found, symbolic links included.
pub(super) async fn find(root: &Path, path: &str) -> Option<Found> {
    let wanted = navigation::segments(path)?.iter().fold(root.to_owned(), |path, segment| path.join(segment));
    let inside = |path: &Path| path.starts_with(root);
    let path = tokio::fs::canonicalize(&wanted).await.ok().filter(|path| inside(path))?;
    let metadata = tokio::fs::metadata(&path).await.ok()?;
    if metadata.is_file() {
        return Some(Found { path, is_directory: false });
    }
    let index = tokio::fs::canonicalize(path.join(INDEX)).await.ok().filter(|path| inside(path))?;
    Some(Found { path: index, is_directory: true })
}

/// Answers with a file, its placeholder replaced by `base`; 304 where the browser has it.
pub(super) async fn send(path: &Path, base: &str, headers: &HeaderMap) -> Response {
    match answer(path, base, headers).await {
        Ok(response) => response,
        Err(error) if error.kind() == io::ErrorKind::NotFound => ApiError::no_route().into_response(),
        Err(error) => {
            tracing::warn!(%error, "{} of the UI cannot be read", path.display());
            ApiError::Internal("a file of the UI cannot be read".into()).into_response()
        }
    }
}

async fn answer(path: &Path, base: &str, headers: &HeaderMap) -> io::Result<Response> {
    let metadata = tokio::fs::metadata(path).await?;
    if metadata.len() > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is larger than any of the UI"));
    }
    let etag = etag(&metadata, base)?;
    let modified = httpdate::fmt_http_date(metadata.modified()?);
    let validators = [(header::ETAG, etag.clone()), (header::LAST_MODIFIED, modified.clone())];
    if is_known(headers, &etag, &metadata)? {
        let [etag, _] = validators;
        return Ok((StatusCode::NOT_MODIFIED, [etag]).into_response());
    }
    let content = read(path, base).await?;
    let length = content.len();
    let wanted = match header_text(headers, header::RANGE) {
        Some(text) if header_text(headers, header::IF_RANGE).is_none_or(|known| known == etag || known == modified) => part(text, length),
        _ => Wanted::Whole,
    };
    let mut response = match wanted {
        Wanted::Whole => (validators, Body::from(content)).into_response(),
        Wanted::Part(range) => {
            let named = format!("bytes {}-{}/{length}", range.start, range.end - 1);
            (StatusCode::PARTIAL_CONTENT, validators, [(header::CONTENT_RANGE, named)], Body::from(content.slice(range))).into_response()
        }
        Wanted::Nothing => {
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, [(header::CONTENT_RANGE, format!("bytes */{length}"))]).into_response());
        }
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(path)));
    response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    Ok(response)
}

/// The content, with the base path in it.
async fn read(path: &Path, base: &str) -> io::Result<Bytes> {
    let content = tokio::fs::read(path).await?;
    if !TEXTS.contains(&ending(path)) {
        return Ok(content.into());
    }
    Ok(match String::from_utf8(content) {
        Ok(text) if text.contains(PLACEHOLDER) => text.replace(PLACEHOLDER, base).into(),
        Ok(text) => text.into(),
        Err(error) => error.into_bytes().into(),
    })
}

fn ending(path: &Path) -> &str {
    path.extension().and_then(|ending| ending.to_str()).unwrap_or_default()
}

/// Changes with the file and with the base path in it.
fn etag(metadata: &Metadata, base: &str) -> io::Result<String> {
    let age = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let hash = Sha256::digest(format!("{}-{}-{base}", age.as_nanos(), metadata.len()));
    Ok(format!("\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(&hash[..16])))
}

/// Whether the browser's copy is this one. A tag decides where there is one.
fn is_known(headers: &HeaderMap, etag: &str, metadata: &Metadata) -> io::Result<bool> {
    if let Some(tags) = header_text(headers, header::IF_NONE_MATCH) {
        return Ok(tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag));
    }
    let Some(since) = header_text(headers, header::IF_MODIFIED_SINCE).and_then(|text| httpdate::parse_http_date(text).ok()) else {
        return Ok(false);
    };
    // Dates have whole seconds.
    let seconds = |time: std::time::SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(seconds(since) >= seconds(metadata.modified()?))
}

fn header_text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    Part(Range<usize>),
    Nothing,
}

/// The part that a `Range` asks for. Several at once, or what cannot be read, give the whole, as HTTP allows.
fn part(text: &str, length: usize) -> Wanted {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else { return Wanted::Whole };
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(length),
        (Some(first), None) if last.trim().is_empty() => first..length,
        (None, Some(count)) if first.trim().is_empty() => length.saturating_sub(count)..length,
        _ => return Wanted::Whole,
    };
    if range.is_empty() { Wanted::Nothing } else { Wanted::Part(range) }
}

/// The types of the files that a UI is made of.
fn content_type(path: &Path) -> &'static str {
    match ending(path) {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "txt" => "text/plain; charset=utf-8",
        "xml" => "text/xml; charset=utf-8",
        "json" => "application/json",
        "webmanifest" => "application/manifest+json",
        "wasm" => "application/wasm",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "ico" => "image/vnd.microsoft.icon",
        "ttf" => "font/ttf",
        "otf" => "font/otf",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_cut_out_and_what_cannot_be_read_gives_the_whole() {
        for (text, wanted) in [
            ("bytes=0-9", Wanted::Part(0..10)),
            ("bytes=90-", Wanted::Part(90..100)),
            ("bytes=-5", Wanted::Part(95..100)),
            ("bytes=-500", Wanted::Part(0..100)),
            ("bytes=50-5000", Wanted::Part(50..100)),
            ("bytes=100-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=5-2", Wanted::Whole),
            ("bytes=0-1,4-5", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
        ] {
            assert_eq!(part(text, 100), wanted, "{text}");
        }
    }

    #[tokio::test]
    async fn the_base_path_stands_in_texts_and_nowhere_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let text = format!("<a href=\"{PLACEHOLDER}/x\">");
        for (name, wanted) in [("a.html", "<a href=\"/p/v2/x\">"), ("a.png", text.as_str())] {
            let path = directory.path().join(name);
            std::fs::write(&path, &text).expect("written");
            assert_eq!(read(&path, "/p/v2").await.expect("read"), wanted.as_bytes());
            assert_eq!(std::fs::read_to_string(&path).expect("read"), text, "a file was changed");
        }
    }

    #[tokio::test]
    async fn links_do_not_lead_outside() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().canonicalize().expect("it is there").join("ui");
        std::fs::create_dir(&root).expect("made");
        std::fs::write(directory.path().join("secret"), "s").expect("written");
        std::os::unix::fs::symlink(directory.path().join("secret"), root.join("link")).expect("linked");
        std::fs::write(root.join(INDEX), "i").expect("written");
        assert!(find(&root, "/link").await.is_none());
        assert!(find(&root, "/").await.is_some_and(|found| found.is_directory && found.path == root.join(INDEX)));
        assert!(find(&root, "/index.html").await.is_some_and(|found| !found.is_directory));
        assert!(find(&root, "/none").await.is_none());
    }
}
