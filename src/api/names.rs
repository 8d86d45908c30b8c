//! Names that are words of other paths: `GET /work_pools/filter` reads the pool of that name, while the same path with
//! POST lists pools. The reference's framework looks at the method before it decides on a route; axum's router does not.
//! So such a name is written with an escape, which is the same name to the handler and another word to the router.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use axum::extract::Request;
use axum::http::Uri;
use axum::http::uri::PathAndQuery;

use super::operations::OPERATIONS;
use super::{Known, find};

/// Last words of paths in whose place another operation has a name.
static WORDS: LazyLock<BTreeSet<&str>> = LazyLock::new(|| {
    let named: BTreeSet<&str> = OPERATIONS.iter().filter_map(|(_, path)| before_name(path)).collect();
    let words = OPERATIONS.iter().filter_map(|(_, path)| path.rsplit_once('/'));
    words.filter(|(before, word)| !word.is_empty() && !word.starts_with('{') && named.contains(before)).map(|(_, word)| word).collect()
});

/// What is before the name at the end of a template. An `{id}` is no name: no word is one.
fn before_name(template: &str) -> Option<&str> {
    template.rsplit_once('/').filter(|(_, last)| last.starts_with('{') && *last != "{id}").map(|(before, _)| before)
}

/// Makes sure that a request whose path ends with a name is not taken for another operation. `base_path` is that of the
/// API, without a slash at its end.
pub fn apart(base_path: &str, mut request: Request) -> Request {
    if let Some(uri) = escaped(base_path, &request) {
        *request.uri_mut() = uri;
    }
    request
}

fn escaped(base_path: &str, request: &Request) -> Option<Uri> {
    let path = request.uri().path();
    let (before, word) = path.rsplit_once('/')?;
    if !WORDS.contains(word) {
        return None;
    }
    match find(request.method(), path.strip_prefix(base_path)?) {
        Known::Operation(template) if before_name(template).is_some() => {}
        _ => return None,
    }
    let (first, rest) = (word.as_bytes().first()?, word.get(1..)?);
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(format!("{before}/%{first:02X}{rest}{query}")).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Method;

    use super::*;

    #[test]
    fn a_name_is_kept_apart_from_the_words_of_other_operations() {
        let uri_of = |method: Method, uri: &str| {
            let request = Request::builder().method(method).uri(uri).body(Body::empty()).expect("a request");
            apart("/api", request).uri().to_string()
        };
        for (method, given, routed) in [
            (Method::GET, "/api/work_pools/filter", "/api/work_pools/%66ilter"),
            (Method::PATCH, "/api/work_pools/count?x=1", "/api/work_pools/%63ount?x=1"),
            (Method::DELETE, "/api/v2/concurrency_limits/increment", "/api/v2/concurrency_limits/%69ncrement"),
            (Method::DELETE, "/api/work_pools/p/workers/heartbeat", "/api/work_pools/p/workers/%68eartbeat"),
            (Method::GET, "/api/work_pools/p/queues/filter", "/api/work_pools/p/queues/%66ilter"),
        ] {
            assert_eq!(uri_of(method, given), routed);
        }
        for (method, as_it_is) in [
            (Method::POST, "/api/work_pools/filter"),
            (Method::PUT, "/api/work_pools/filter"),
            (Method::GET, "/api/flows/filter"),
            (Method::GET, "/work_pools/filter"),
            (Method::GET, "/api/work_pools/filter/"),
            (Method::GET, "/api/work_pools/other"),
        ] {
            assert_eq!(uri_of(method, as_it_is), as_it_is);
        }
    }
}
