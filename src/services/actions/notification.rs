//! The requests that blocks make: what each service is sent, byte for byte what the reference's library (apprise) sends.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::http::Request;
use super::mail::{self, Mail};
use crate::clock::Timestamp;
use crate::limits;
use crate::model::json::python_dumps;

/// The name under which notifications are sent.
pub(super) const AGENT: &str = "Prefect Notifications";

/// The name where the reference forgets to give it.
const PLAIN_AGENT: &str = "Apprise";

/// The request of a webhook block.
pub(super) fn webhook(data: &Map<String, Value>, payload: String) -> Result<Request, String> {
    let headers = data.get("headers").and_then(Value::as_object).into_iter().flatten();
    Ok(Request {
        method: text(data, "method").unwrap_or("POST").to_owned(),
        url: required(data, "url")?.to_owned(),
        headers: headers.map(|(name, value)| (name.clone(), plain(value))).collect(),
        body: payload,
        allow_private: flag(data, "allow_private_urls", true),
        verify: flag(data, "verify", true),
        ..Request::default()
    })
}

/// The mail that carries a notification, where it goes by e-mail: blocks that take any address of the reference's library.
///
/// # Errors
/// What keeps the block from being used.
pub(super) fn mail(slug: &str, data: &Map<String, Value>) -> Option<Result<Mail, String>> {
    let address = text(data, "url").filter(|address| !OWN_ADDRESSES.contains(&slug) && mail::is_mail(address))?;
    Some(Mail::read(address, flag(data, "allow_private_urls", true)))
}

/// Blocks whose `url` is of one service only.
const OWN_ADDRESSES: [&str; 2] = ["ms-teams-webhook", "custom-webhook"];

/// The requests that carry a notification, by the slug of the block's type.
///
/// # Errors
/// What keeps the block from being used.
pub(super) fn requests(slug: &str, data: &Map<String, Value>, subject: &str, body: &str, now: Timestamp) -> Result<Vec<Request>, String> {
    let message = Message { data, subject, body, kind: Kind::of(text(data, "notify_type").unwrap_or("info")), now };
    let mut requests = match slug {
        "slack-webhook" => message.slack(),
        "ms-teams-webhook" => message.teams(),
        "pager-duty-webhook" => message.pager_duty(),
        "twilio-sms" => message.twilio(),
        "opsgenie-webhook" => message.opsgenie(),
        "mattermost-webhook" => message.mattermost(),
        "discord-webhook" => message.discord(),
        "sendgrid-email" => message.sendgrid(),
        "custom-webhook" => message.custom(),
        other => Err(format!("notifications by blocks of the type {other} are not known to this server")),
    }?;
    if requests.len() > limits::NOTIFICATION_REQUESTS {
        return Err(format!("a notification goes to {} receivers at most", limits::NOTIFICATION_REQUESTS));
    }
    let allow_private = flag(data, "allow_private_urls", true);
    for request in &mut requests {
        request.allow_private = allow_private;
    }
    Ok(requests)
}

fn text<'a>(data: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    data.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn required<'a>(data: &'a Map<String, Value>, key: &str) -> Result<&'a str, String> {
    text(data, key).ok_or_else(|| format!("the block has no {key}"))
}

fn flag(data: &Map<String, Value>, key: &str, default: bool) -> bool {
    data.get(key).and_then(Value::as_bool).unwrap_or(default)
}

fn list<'a>(data: &'a Map<String, Value>, key: &str) -> Vec<&'a str> {
    data.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What kind of notification, with what shows it.
#[derive(Clone, Copy)]
struct Kind {
    word: &'static str,
    color: &'static str,
    severity: &'static str,
}

impl Kind {
    fn of(word: &str) -> Self {
        match word {
            "success" => Self { word: "success", color: "#3AA337", severity: "info" },
            "warning" => Self { word: "warning", color: "#CACF29", severity: "warning" },
            "failure" => Self { word: "failure", color: "#A32037", severity: "critical" },
            _ => Self { word: "info", color: "#3AA3E3", severity: "info" },
        }
    }

    fn image(self, size: &str) -> String {
        format!("https://github.com/caronc/apprise/raw/master/apprise/assets/themes/default/apprise-{}-{size}.png", self.word)
    }
}

struct Message<'a> {
    data: &'a Map<String, Value>,
    subject: &'a str,
    body: &'a str,
    kind: Kind,
    now: Timestamp,
}

impl Message<'_> {
    /// Subject and body in one text, for services that know no subject.
    fn joined(&self) -> String {
        if self.subject.is_empty() { self.body.to_owned() } else { format!("{}\r\n{}", self.subject, self.body) }
    }

    fn slack(&self) -> Result<Vec<Request>, String> {
        let url = required(self.data, "url")?;
        // Addresses in the library's own form, for any receiver of JSON.
        if let Some((scheme, rest)) = url.split_once("://")
            && let Some(scheme) = match scheme {
                "json" => Some("http"),
                "jsons" => Some("https"),
                _ => None,
            }
        {
            let body = json!({
                "version": "1.0", "title": self.subject, "message": self.body, "attachments": [], "type": self.kind.word,
            });
            return Ok(vec![Request::json(format!("{scheme}://{rest}"), python_dumps(&body))]);
        }
        let path = url.split_once("://").map_or("", |(_, rest)| rest);
        let (host, tokens) = path.split_once("/services/").unwrap_or_default();
        let tokens: Vec<&str> = tokens.trim_end_matches('/').split('/').collect();
        let is_token = |token: &&str| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let known = ["hooks.slack.com", "hooks.slack-gov.com"].contains(&host.to_lowercase().as_str());
        if !known || tokens.len() != 3 || !tokens.iter().all(is_token) {
            return Err("[ERROR]: There are no service(s) to notify".to_owned());
        }
        let agent = if host.eq_ignore_ascii_case("hooks.slack.com") { AGENT } else { PLAIN_AGENT };
        let escaped = self.body.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let image = self.kind.image("72x72");
        let body = json!({
            "mrkdwn": true,
            "attachments": [{
                "title": self.subject, "text": escaped, "color": self.kind.color, "footer_icon": image, "footer": agent,
                "ts": self.now.timestamp_micros() as f64 / 1e6,
            }],
            "icon_url": image,
        });
        let mut request = Request::json(format!("https://{host}/services/{}", tokens.join("/")), python_dumps(&body));
        request.headers = vec![
            ("User-Agent".to_owned(), agent.to_owned()),
            ("Accept".to_owned(), "application/json".to_owned()),
            ("Content-Type".to_owned(), "application/json; charset=utf-8".to_owned()),
        ];
        Ok(vec![request])
    }

    fn teams(&self) -> Result<Vec<Request>, String> {
        let url = required(self.data, "url")?;
        if !url.contains("/workflows/") || !url.contains("sig=") {
            return Err("Invalid Microsoft Teams Workflow URL provided.".to_owned());
        }
        let mut card = Vec::new();
        if flag(self.data, "include_image", true) {
            card.push(json!({"type": "Image", "url": self.kind.image("32x32"), "height": "32px", "altText": self.kind.word}));
        }
        if !self.subject.is_empty() {
            card.push(json!({
                "type": "TextBlock", "text": self.subject, "style": "heading", "weight": "Bolder", "size": "Large", "id": "title",
            }));
        }
        let wrap = flag(self.data, "wrap", true);
        card.push(json!({"type": "TextBlock", "text": self.body, "style": "default", "wrap": wrap, "id": "body"}));
        let body = json!({
            "type": "message",
            "attachments": [{
                "contentType": "application/vnd.microsoft.card.adaptive",
                "contentUrl": null,
                "content": {
                    "$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4",
                    "body": card, "msteams": {"width": "full"},
                },
            }],
        });
        Ok(vec![Request::json(url, python_dumps(&body))])
    }

    fn pager_duty(&self) -> Result<Vec<Request>, String> {
        let data = self.data;
        let mut details = data.get("custom_details").and_then(Value::as_object).cloned().unwrap_or_default();
        // A subject is the summary, and the text goes to the details.
        let summary = if self.subject.is_empty() {
            self.body.to_owned()
        } else {
            details.insert("Prefect Notification Body".to_owned(), self.body.into());
            format!("{}\r\n", self.subject)
        };
        let mut payload = Map::from_iter([
            ("summary".to_owned(), summary.into()),
            ("severity".to_owned(), self.kind.severity.into()),
            ("source".to_owned(), text(data, "source").unwrap_or("Prefect").into()),
            ("component".to_owned(), text(data, "component").unwrap_or("Notification").into()),
        ]);
        for (key, name) in [("group", "group"), ("class_id", "class")] {
            payload.extend(text(data, key).map(|value| (name.to_owned(), value.into())));
        }
        if !details.is_empty() {
            payload.insert("custom_details".to_owned(), Value::Object(details));
        }
        let mut body = json!({
            "routing_key": required(data, "integration_key")?, "payload": payload, "client": AGENT, "event_action": "trigger",
        });
        if flag(data, "include_image", true) {
            body["images"] = json!([{"src": self.kind.image("128x128"), "alt": self.kind.word}]);
        }
        if let Some(url) = text(data, "clickable_url") {
            body["links"] = json!([{"href": url}]);
        }
        let host = if text(data, "region_name") == Some("eu") { "events.eu.pagerduty.com" } else { "events.pagerduty.com" };
        let request = Request::json(format!("https://{host}/v2/enqueue"), python_dumps(&body));
        Ok(vec![request.header("Authorization", format!("Token token={}", required(data, "api_key")?))])
    }

    fn twilio(&self) -> Result<Vec<Request>, String> {
        let account = required(self.data, "account_sid")?;
        let token = required(self.data, "auth_token")?;
        let from = required(self.data, "from_phone_number")?;
        let to = list(self.data, "to_phone_numbers");
        let receivers = if to.is_empty() { vec![from] } else { to };
        let one = |to: &str| Request {
            method: "POST".to_owned(),
            url: format!("https://api.twilio.com/2010-04-01/Accounts/{account}/Messages.json"),
            headers: vec![
                ("User-Agent".to_owned(), AGENT.to_owned()),
                ("Accept".to_owned(), "application/json".to_owned()),
                ("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned()),
            ],
            basic: Some((account.to_owned(), token.to_owned())),
            body: form([("Body", self.joined().as_str()), ("From", from), ("To", to)]),
            verify: true,
            ..Request::default()
        };
        Ok(receivers.into_iter().map(one).collect())
    }

    fn opsgenie(&self) -> Result<Vec<Request>, String> {
        let data = self.data;
        let mut details = data.get("details").and_then(Value::as_object).cloned().unwrap_or_default();
        details.insert("type".to_owned(), self.kind.word.into());
        let priority = data.get("priority").and_then(Value::as_i64).unwrap_or(3).clamp(1, 5);
        let message = if self.subject.is_empty() { self.body } else { self.subject };
        // The service takes 130 characters of a message; the whole text is the description.
        let message: String = message.chars().take(130).collect();
        let mut body = json!({
            "source": AGENT, "message": message, "description": self.body, "details": details, "priority": format!("P{priority}"),
        });
        let tags = list(data, "tags");
        if !tags.is_empty() {
            body["tags"] = json!(tags);
        }
        for key in ["entity", "alias"] {
            if let Some(value) = text(data, key) {
                body[key] = value.into();
            }
        }
        let mut responders: Vec<Value> = Vec::new();
        for (key, kind, name) in [
            ("target_team", "team", "name"),
            ("target_schedule", "schedule", "name"),
            ("target_user", "user", "username"),
            ("target_escalation", "escalation", "name"),
        ] {
            let mut targets = list(data, key);
            targets.sort_unstable();
            responders.extend(targets.into_iter().map(|target| json!({"type": kind, name: target})));
        }
        let host = if text(data, "region_name") == Some("eu") { "api.eu.opsgenie.com" } else { "api.opsgenie.com" };
        let key = format!("GenieKey {}", required(data, "apikey")?);
        let size = if flag(data, "batch", false) { 50 } else { 1 };
        let batches: Vec<&[Value]> = if responders.is_empty() { vec![&[]] } else { responders.chunks(size).collect() };
        let one = |responders: &[Value]| {
            let mut body = body.clone();
            if !responders.is_empty() {
                body["responders"] = json!(responders);
            }
            Request::json(format!("https://{host}/v2/alerts"), python_dumps(&body)).header("Authorization", key.clone())
        };
        Ok(batches.into_iter().map(one).collect())
    }

    fn mattermost(&self) -> Result<Vec<Request>, String> {
        let data = self.data;
        let scheme = if flag(data, "secure", false) { "https" } else { "http" };
        let port = data.get("port").and_then(Value::as_i64).unwrap_or(8065);
        let path = text(data, "path").map(|path| format!("/{}", path.trim_matches('/'))).unwrap_or_default();
        let url = format!("{scheme}://{}:{port}{path}/hooks/{}", required(data, "hostname")?, required(data, "token")?);
        let mut channels: Vec<String> =
            list(data, "channels").into_iter().map(|channel| channel.trim_start_matches('#').to_owned()).collect();
        channels.sort();
        let one = |channel: Option<&String>| {
            let mut body = json!({"text": self.joined()});
            if flag(data, "include_image", false) {
                body["icon_url"] = self.kind.image("72x72").into();
            }
            // As in the reference, which forgets the name of the bot.
            body["username"] = PLAIN_AGENT.into();
            if let Some(channel) = channel {
                body["channel"] = channel.as_str().into();
            }
            let mut request = Request::json(url.clone(), python_dumps(&body));
            PLAIN_AGENT.clone_into(&mut request.headers[0].1);
            request
        };
        Ok(if channels.is_empty() { vec![one(None)] } else { channels.iter().map(|channel| one(Some(channel))).collect() })
    }

    fn discord(&self) -> Result<Vec<Request>, String> {
        let data = self.data;
        let tts = flag(data, "tts", false);
        let mut body = json!({"tts": tts, "wait": !tts});
        if let Some(url) = text(data, "avatar_url") {
            body["avatar_url"] = url.into();
        } else if flag(data, "avatar", false) {
            body["avatar_url"] = self.kind.image("256x256").into();
        }
        body["content"] = self.joined().into();
        let url = format!("https://discord.com/api/webhooks/{}/{}", required(data, "webhook_id")?, required(data, "webhook_token")?);
        let mut request = Request::json(url, python_dumps(&body));
        "application/json; charset=utf-8".clone_into(&mut request.headers[1].1);
        Ok(vec![request])
    }

    fn sendgrid(&self) -> Result<Vec<Request>, String> {
        let subject = if self.subject.is_empty() { "<no subject>" } else { self.subject };
        let from = required(self.data, "sender_email")?;
        let key = format!("Bearer {}", required(self.data, "api_key")?);
        let to = list(self.data, "to_emails");
        let receivers = if to.is_empty() { vec![from] } else { to };
        let one = |to: &str| {
            let body = json!({
                "personalizations": [{"to": [{"email": to}]}], "from": {"email": from}, "subject": subject,
                "content": [{"type": "text/html", "value": self.body}],
            });
            Request::json("https://api.sendgrid.com/v3/mail/send", python_dumps(&body)).header("Authorization", key.clone())
        };
        Ok(receivers.into_iter().map(one).collect())
    }

    /// A webhook with `{{name}}` of secrets and of the notification put in everywhere.
    fn custom(&self) -> Result<Vec<Request>, String> {
        let data = self.data;
        let given = |key: &str| data.get(key).filter(|value| !value.is_null());
        if given("form_data").is_some() && given("json_data").is_some() {
            return Err("both `Form Data` and `JSON Data` provided".to_owned());
        }
        let mut values = given("secrets").and_then(Value::as_object).cloned().unwrap_or_default();
        values.insert("subject".to_owned(), self.subject.into());
        values.insert("body".to_owned(), self.body.into());
        values.insert("name".to_owned(), required(data, "name")?.into());
        let put = |value: &Value| put_in(value, &values);
        let pairs = |key: &str| -> Vec<(String, String)> {
            let filled = given(key).map(put).unwrap_or_default();
            filled.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), plain(value))).collect()
        };
        let mut headers = vec![("User-Agent".to_owned(), AGENT.to_owned())];
        let (kind, body) = if let Some(json) = given("json_data") {
            (Some("application/json"), put(json).to_string())
        } else {
            match given("form_data") {
                Some(Value::String(raw)) => (None, plain(&put(&Value::String(raw.clone())))),
                Some(_) => {
                    let fields = pairs("form_data");
                    (Some("application/x-www-form-urlencoded"), form(fields.iter().map(|(key, value)| (key.as_str(), value.as_str()))))
                }
                None => (None, String::new()),
            }
        };
        let own = pairs("headers");
        let has_own = |name: &str| own.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        if let Some(kind) = kind.filter(|_| !has_own("content-type")) {
            headers.push(("Content-Type".to_owned(), kind.to_owned()));
        }
        headers.retain(|(name, _)| !has_own(name));
        headers.extend(own);
        let cookies: Vec<String> = pairs("cookies").into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            headers.push(("Cookie".to_owned(), cookies.join("; ")));
        }
        let seconds = data.get("timeout").and_then(Value::as_f64).unwrap_or(10.0).clamp(0.001, limits::ACTION_CALL.as_secs_f64());
        Ok(vec![Request {
            method: text(data, "method").unwrap_or("POST").to_owned(),
            url: plain(&put(&Value::String(required(data, "url")?.to_owned()))),
            query: pairs("params"),
            headers,
            body,
            verify: true,
            timeout: Some(Duration::from_secs_f64(seconds)),
            ..Request::default()
        }])
    }
}

/// Puts values in place of `{{name}}` in all texts; a text that is nothing else takes the value's type. A name without
/// value stays as it is.
fn put_in(value: &Value, values: &Map<String, Value>) -> Value {
    match value {
        Value::String(text) => {
            let mut out = String::new();
            let mut rest = text.as_str();
            while let Some((before, after)) = rest.split_once("{{") {
                let Some((name, behind)) = after.split_once("}}") else { break };
                out.push_str(before);
                match values.get(name.trim()) {
                    Some(value) if before.is_empty() && behind.is_empty() && out.is_empty() => return value.clone(),
                    Some(value) => out.push_str(&plain(value)),
                    None => out.push_str(&format!("{{{{{name}}}}}")),
                }
                rest = behind;
            }
            out.push_str(rest);
            Value::String(out)
        }
        Value::Array(items) => items.iter().map(|item| put_in(item, values)).collect(),
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), put_in(value, values))).collect(),
        other => other.clone(),
    }
}

fn form<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

#[cfg(test)]
mod tests;
