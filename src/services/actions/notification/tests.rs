use serde::Deserialize;

use super::*;

/// What the reference sent for the same blocks and texts, caught between its library and the network.
#[derive(Deserialize)]
struct Case {
    name: String,
    slug: String,
    data: Map<String, Value>,
    subject: String,
    body: String,
    requests: Vec<Sent>,
}

#[derive(Deserialize)]
struct Sent {
    method: String,
    url: String,
    params: Option<Map<String, Value>>,
    headers: Map<String, Value>,
    auth: Option<Vec<String>>,
    data: Value,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("sent_by_reference.json")).expect("the cases can be read")
}

/// JSON without the time that Slack is told.
fn comparable(text: &str) -> Value {
    let mut value: Value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    if let Some(attachment) = value.pointer_mut("/attachments/0").and_then(Value::as_object_mut) {
        attachment.remove("ts");
    }
    value
}

fn full_url(request: &Request) -> String {
    let mut url: url::Url = request.url.parse().expect("an address");
    if !request.query.is_empty() {
        url.query_pairs_mut().extend_pairs(&request.query);
    }
    url.to_string()
}

#[test]
fn services_are_sent_what_the_reference_sends() {
    for case in cases() {
        let name = &case.name;
        let sent = requests(&case.slug, &case.data, &case.subject, &case.body, Timestamp::default()).expect(name);
        assert_eq!(sent.len(), case.requests.len(), "{name}");
        for (ours, theirs) in sent.iter().zip(&case.requests) {
            assert_eq!(ours.method, theirs.method, "{name}");
            let mut url: url::Url = theirs.url.parse().expect("an address");
            if let Some(params) = &theirs.params {
                url.query_pairs_mut().extend_pairs(params.iter().map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default())));
            }
            let pairs = |url: &url::Url| -> Vec<(String, String)> {
                let mut pairs: Vec<_> = url.query_pairs().into_owned().collect();
                pairs.sort();
                pairs
            };
            let ours_url: url::Url = full_url(ours).parse().expect("an address");
            assert_eq!((ours_url.host_str(), ours_url.path(), pairs(&ours_url)), (url.host_str(), url.path(), pairs(&url)), "{name}");
            assert_eq!(ours_url.port_or_known_default(), url.port_or_known_default(), "{name}");
            for (header, value) in &theirs.headers {
                let found = ours.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(header)).map(|(_, value)| value.as_str());
                assert_eq!(found, value.as_str(), "{name}: {header}");
            }
            let basic = ours.basic.as_ref().map(|(user, password)| vec![user.clone(), password.clone()]);
            assert_eq!(basic, theirs.auth, "{name}");
            match &theirs.data {
                // Forms are compared by their fields: an asterisk may be encoded or not.
                Value::String(text)
                    if theirs.headers.get("content-type").is_some_and(|kind| kind == "application/x-www-form-urlencoded") =>
                {
                    let fields = |text: &str| url::form_urlencoded::parse(text.as_bytes()).into_owned().collect::<Vec<_>>();
                    assert_eq!(fields(&ours.body), fields(text), "{name}");
                }
                Value::String(text) => assert_eq!(comparable(&ours.body), comparable(text), "{name}"),
                Value::Object(fields) => {
                    let mut given: Map<String, Value> = url::form_urlencoded::parse(ours.body.as_bytes())
                        .map(|(key, value)| (key.into_owned(), Value::String(value.into_owned())))
                        .collect();
                    assert!(given.remove("To").is_some(), "{name}");
                    assert_eq!(&given, fields, "{name}");
                }
                other => panic!("{name}: {other}"),
            }
        }
    }
}

#[test]
fn each_receiver_gets_a_request_of_its_own() {
    let twilio = cases().into_iter().find(|case| case.slug == "twilio-sms").expect("it is there");
    let sent = requests(&twilio.slug, &twilio.data, "", "hi", Timestamp::default()).expect("good");
    let to: Vec<String> = sent
        .iter()
        .flat_map(|request| url::form_urlencoded::parse(request.body.as_bytes()).into_owned().collect::<Vec<_>>())
        .filter_map(|(key, value)| (key == "To").then_some(value))
        .collect();
    assert_eq!(to, ["+15557654321", "+15550001111"]);
}

#[test]
fn blocks_that_cannot_be_used_say_why() {
    let of = |slug: &str, data: Value| {
        requests(slug, data.as_object().expect("an object"), "s", "b", Timestamp::default()).expect_err("it cannot be used")
    };
    assert_eq!(of("slack-webhook", json!({"url": "http://127.0.0.1/x"})), "[ERROR]: There are no service(s) to notify");
    assert_eq!(of("ms-teams-webhook", json!({"url": "http://x"})), "Invalid Microsoft Teams Workflow URL provided.");
    assert_eq!(of("discord-webhook", json!({})), "the block has no webhook_id");
    assert!(of("smoke-signals", json!({})).contains("smoke-signals"));
    let many: Vec<String> = (0..101).map(|number| format!("a{number}@x.com")).collect();
    assert!(of("sendgrid-email", json!({"api_key": "k", "sender_email": "f@x.com", "to_emails": many})).contains("at most"));
}
