//! Requests of actions: bounded in time and in what is read, redirects and private addresses by setting.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use crate::config::{ActionsSettings, Planted};
use crate::limits;

/// The header by which a receiver knows a repetition.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A request to make.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Request {
    pub method: String,
    pub url: String,
    /// Added to those of the address.
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
    /// User and password.
    pub basic: Option<(String, String)>,
    pub body: String,
    /// Whether private addresses may be called, as far as the block says.
    pub allow_private: bool,
    /// Whether the certificate is checked.
    pub verify: bool,
    /// `None`: the setting.
    pub timeout: Option<Duration>,
}

impl Request {
    /// A POST of JSON.
    pub fn json(url: impl Into<String>, body: String) -> Self {
        Self {
            method: "POST".to_owned(),
            url: url.into(),
            headers: vec![
                ("User-Agent".to_owned(), super::notification::AGENT.to_owned()),
                ("Content-Type".to_owned(), "application/json".to_owned()),
            ],
            body,
            allow_private: true,
            verify: true,
            ..Self::default()
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub text: String,
    /// Without those that are nobody's business.
    pub headers: Vec<(String, String)>,
}

/// Clients, which keep connections, by what they allow.
#[derive(Default)]
pub(super) struct Http {
    clients: Mutex<HashMap<(bool, bool), reqwest::Client>>,
}

impl Http {
    /// Makes a request. Its errors name neither the address nor what was sent: both may be secret.
    pub async fn send(&self, settings: &ActionsSettings, invocation: Uuid, request: Request) -> Result<Answer, String> {
        let allow_private = request.allow_private && settings.private_addresses;
        let url: url::Url = request.url.parse().map_err(|error| format!("the address is none: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("only HTTP and HTTPS addresses are allowed".to_owned());
        }
        if !allow_private && let Some(reason) = literal_refused(&url) {
            return Err(reason);
        }
        let client = self.client(settings, allow_private, request.verify)?;
        let method = request.method.parse().map_err(|_| "no such method".to_owned())?;
        let mut headers = HeaderMap::new();
        for (name, value) in &request.headers {
            let name: HeaderName = name.parse().map_err(|_| format!("{name} is no name of a header"))?;
            headers.insert(name.clone(), HeaderValue::from_str(value).map_err(|_| format!("the header {name} has no usable value"))?);
        }
        let invocation = if Planted::ActionKey.is_here() { crate::id::v4() } else { invocation };
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(&invocation.to_string()).map_err(|error| error.to_string())?);
        let mut building =
            client.request(method, url).headers(headers).timeout(request.timeout.unwrap_or(settings.timeout)).body(request.body);
        if !request.query.is_empty() {
            building = building.query(&request.query);
        }
        if let Some((user, password)) = request.basic {
            building = building.basic_auth(user, Some(password));
        }
        let mut response = building.send().await.map_err(|error| describe(error, settings.timeout))?;
        let mut read = Vec::new();
        while read.len() < limits::ACTION_ANSWER_BYTES {
            match response.chunk().await {
                Ok(Some(chunk)) => read.extend_from_slice(&chunk[..chunk.len().min(limits::ACTION_ANSWER_BYTES - read.len())]),
                Ok(None) => break,
                Err(error) => return Err(describe(error, settings.timeout)),
            }
        }
        let told = response.headers().iter().filter(|(name, _)| !is_redacted(name.as_str()));
        let headers = told.map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        Ok(Answer { status: response.status().as_u16(), headers: headers.collect(), text: String::from_utf8_lossy(&read).into_owned() })
    }

    fn client(&self, settings: &ActionsSettings, allow_private: bool, verify: bool) -> Result<reqwest::Client, String> {
        if let Some(client) = self.clients.lock().get(&(allow_private, verify)) {
            return Ok(client.clone());
        }
        let redirects = settings.redirects;
        let policy = reqwest::redirect::Policy::custom(move |attempt| {
            if attempt.previous().len() > redirects {
                return attempt.stop();
            }
            match literal_refused(attempt.url()) {
                Some(reason) if !allow_private => attempt.error(reason),
                _ => attempt.follow(),
            }
        });
        let mut builder = reqwest::Client::builder().redirect(policy).danger_accept_invalid_certs(!verify).pool_idle_timeout(IDLE);
        if !allow_private {
            builder = builder.dns_resolver(Arc::new(PublicOnly)).no_proxy();
        }
        let client = builder.build().map_err(|error| error.to_string())?;
        self.clients.lock().insert((allow_private, verify), client.clone());
        Ok(client)
    }
}

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);

fn describe(error: reqwest::Error, timeout: Duration) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", timeout.as_secs_f64());
    }
    crate::telemetry::chain(&error.without_url())
}

/// Why an address given as numbers is refused.
fn literal_refused(url: &url::Url) -> Option<String> {
    let address = match url.host()? {
        url::Host::Ipv4(address) => IpAddr::V4(address),
        url::Host::Ipv6(address) => IpAddr::V6(address),
        url::Host::Domain(_) => return None,
    };
    is_private(address).then(|| format!("it is the private address {address}, which may not be called"))
}

/// Resolves names, and refuses those that lead to a private address: checked where the connection is made, so that a name
/// cannot lead elsewhere in between.
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if let Some(private) = found.iter().find(|address| is_private(address.ip())) {
                return Err(format!("it resolves to the private address {}, which may not be called", private.ip()).into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Whether an address leads to this machine or to a network of its owner.
pub(super) fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_broadcast()
                || address.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 198 && (18..20).contains(&b))
                || (a == 192 && b == 0 && address.octets()[2] == 0)
        }
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => is_private(IpAddr::V4(mapped)),
            None => address.is_loopback() || address.is_unspecified() || address.is_unique_local() || address.is_unicast_link_local(),
        },
    }
}

/// Headers of answers that are not told, as in the reference.
fn is_redacted(name: &str) -> bool {
    matches!(name, "authorization" | "traceparent" | "via")
        || ["x-forwarded", "x-b3", "x-cloud-trace", "x-envoy", "x-prefect"].iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(private_addresses: bool) -> ActionsSettings {
        ActionsSettings { timeout: Duration::from_secs(5), redirects: 0, private_addresses, calls: 1 }
    }

    #[test]
    fn private_addresses_are_told_apart() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "fe80::1",
            "fd00::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_private(private.parse().expect("an address")), "{private}");
        }
        for public in ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "192.0.1.1"] {
            assert!(!is_private(public.parse().expect("an address")), "{public}");
        }
    }

    #[tokio::test]
    async fn what_leads_to_this_machine_is_refused_where_that_is_not_allowed() {
        let http = Http::default();
        for url in ["http://127.0.0.1:9/", "http://[::1]:9/", "http://localhost:9/"] {
            for (setting, block) in [(false, true), (true, false)] {
                let request = Request { url: url.to_owned(), allow_private: block, ..Request::json("", String::new()) };
                let refused = http.send(&settings(setting), Uuid::nil(), request).await.expect_err("refused");
                assert!(refused.contains("private address"), "{url}: {refused}");
            }
        }
        let refused = http.send(&settings(true), Uuid::nil(), Request::json("file:///etc/passwd", String::new())).await;
        assert!(refused.is_err_and(|reason| reason.contains("only HTTP")));
    }
}
