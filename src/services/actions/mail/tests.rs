//! What addresses mean, and what a server of SMTP is told.

#![expect(clippy::disallowed_methods, reason = "the server of a test is no task of a node")]

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::*;

const INVOCATION: Uuid = Uuid::from_u128(7);

fn settings() -> ActionsSettings {
    ActionsSettings { timeout: Duration::from_secs(20), redirects: 0, private_addresses: true, calls: 1 }
}

fn read(address: &str) -> Mail {
    Mail::read(address, true).unwrap_or_else(|error| panic!("{address}: {error}"))
}

fn shown(list: &[Mailbox]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// A server that takes mails, but for those to `refused@x.com`, and logins; gives its port and the lines it is sent.
async fn server() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&lines);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let (reading, mut writing) = stream.into_split();
            let mut reading = BufReader::new(reading).lines();
            writing.write_all(b"220 here\r\n").await.expect("sent");
            let mut data = false;
            while let Ok(Some(line)) = reading.next_line().await {
                heard.lock().push(line.clone());
                let answer: &[u8] = match line.split([' ', ':']).next().unwrap_or_default() {
                    "." => {
                        data = false;
                        b"250 taken\r\n"
                    }
                    _ if data => continue,
                    "DATA" => {
                        data = true;
                        b"354 go on\r\n"
                    }
                    "EHLO" => b"250-here\r\n250 AUTH PLAIN LOGIN\r\n",
                    "AUTH" => b"235 welcome\r\n",
                    "RCPT" if line.contains("refused@x.com") => b"550 nobody of that name\r\n",
                    _ => b"250 well\r\n",
                };
                writing.write_all(answer).await.expect("sent");
            }
        }
    });
    (port, lines)
}

#[test]
fn addresses_are_read_as_the_reference_reads_them() {
    let mail = read("mailtos://ann:s%40crt@gmail.com");
    assert_eq!((mail.server.as_str(), mail.port, mail.mode, mail.verify), ("smtp.gmail.com", 587, Mode::StartTls, true));
    assert_eq!(mail.login, Some(("ann@gmail.com".to_owned(), "s@crt".to_owned())));
    assert_eq!(mail.from.to_string(), "Prefect Notifications <ann@gmail.com>");
    assert_eq!(shown(&mail.to), ["ann@gmail.com"]);

    let mail = read("mailto://ann%40yandex.ru:p@yandex.ru/bob@x.com");
    assert_eq!((mail.server.as_str(), mail.port, mail.mode), ("smtp.yandex.ru", 465, Mode::Tls));
    assert_eq!(mail.login, Some(("ann".to_owned(), "p".to_owned())));

    let mail = read(
        "mailtos://u:p@x.org:2525/a@x.com/b@x.com?to=Cee%20<c@x.com>,nonsense&cc=d@x.com&bcc=e@x.com&reply=f@x.com&smtp=mail.x.org&mode=ssl&from=me@x.org&name=Me&format=text&verify=no&%2BX-Team=blue",
    );
    assert_eq!((mail.server.as_str(), mail.port, mail.mode, mail.verify, mail.html), ("mail.x.org", 2525, Mode::Tls, false, false));
    assert_eq!(shown(&mail.to), ["a@x.com", "b@x.com", "Cee <c@x.com>"]);
    assert_eq!(
        (shown(&mail.cc), shown(&mail.bcc), shown(&mail.reply_to)),
        (vec!["d@x.com".into()], vec!["e@x.com".into()], vec!["f@x.com".into()])
    );
    assert_eq!(mail.from.to_string(), "Me <me@x.org>");
    assert_eq!(mail.headers, [("X-Team".to_owned(), "blue".to_owned())]);

    let mail = read("mailtos://u:p@zoho.com?mode=ssl");
    assert_eq!((mail.server.as_str(), mail.port, mail.mode), ("smtp.zoho.com", 587, Mode::Tls));
    let mail = read("mailtos://?to=b@x.com&user=ann@gmail.com&pass=x");
    assert_eq!((mail.server.as_str(), mail.login), ("smtp.gmail.com", Some(("ann@gmail.com".to_owned(), "x".to_owned()))));

    let mail = read("mailto://localhost?to=a@x.com");
    assert_eq!((mail.server.as_str(), mail.port, mail.mode, mail.login.is_none()), ("localhost", 25, Mode::Insecure, true));
    assert_eq!(mail.from.to_string(), "root@localhost");
    let mail = read("mailto://host.org?from=me@x.org&to=a@x.com");
    assert_eq!((mail.server.as_str(), mail.from.to_string().as_str()), ("host.org", "me@x.org"));
}

#[test]
fn addresses_that_cannot_be_used_say_why_and_tell_no_password() {
    for (address, reason) in [
        ("mailto://host.org?to=a@x.com", "From"),
        ("mailtos://u:secret@x.org?mode=loud", "loud"),
        ("mailtos://u:secret@x.org/nobody", "no Email recipients"),
        ("mailtos://u:secret@", "address"),
    ] {
        let told = Mail::read(address, true).expect_err(address);
        assert!(told.contains(reason) && !told.contains("secret"), "{address}: {told}");
    }
    assert!(is_mail("MAILTOS://x") && is_mail("mailto://x") && !is_mail("https://x") && !is_mail("mailto:x"));
}

#[tokio::test]
async fn a_server_is_told_one_mail_for_each_receiver() {
    let (port, lines) = server().await;
    let mail = read(&format!("mailto://u:p@127.0.0.1:{port}/a@x.com/b@x.com?from=me@x.org&cc=b@x.com&bcc=e@x.com&reply=f@x.com"));
    let now = Timestamp::from_timestamp(1_000_000_000, 0).expect("a moment");
    mail.send(&settings(), INVOCATION, "Grüße\r\nBcc: evil@x.com", "<p>1 &lt; 2</p>", now).await.expect("sent");
    let lines = lines.lock();
    let of = |start: &str| lines.iter().filter(|line| line.starts_with(start)).cloned().collect::<Vec<_>>();
    assert_eq!(of("AUTH").len(), 1, "one connection for both: {lines:#?}");
    assert_eq!(of("MAIL FROM"), ["MAIL FROM:<me@x.org>", "MAIL FROM:<me@x.org>"]);
    assert_eq!(of("RCPT TO"), ["RCPT TO:<a@x.com>", "RCPT TO:<b@x.com>", "RCPT TO:<e@x.com>", "RCPT TO:<b@x.com>", "RCPT TO:<e@x.com>"]);
    assert_eq!(of("To: "), ["To: a@x.com", "To: b@x.com"]);
    assert_eq!(of("Cc: "), ["Cc: b@x.com"]);
    assert!(of("Bcc").is_empty(), "neither told nor smuggled in by a subject");
    assert_eq!(of("Reply-To: ").len(), 2);
    assert_eq!(of("Date: ")[0], "Date: Sun, 09 Sep 2001 01:46:40 +0000");
    let ids: Vec<String> = (0..2).map(|number| format!("Message-ID: <{INVOCATION}.{number}@x.org>")).collect();
    assert_eq!(of("Message-ID: "), ids);
    assert_eq!(of("idempotency-key: ")[0], format!("idempotency-key: {INVOCATION}"));
    assert!(of("Subject: ")[0].starts_with("Subject: =?utf-8?"), "{:?}", of("Subject: "));
    assert!(lines.iter().any(|line| line == "1 < 2") && lines.iter().any(|line| line == "<p>1 &lt; 2</p>"), "{lines:#?}");
}

#[tokio::test]
async fn a_refused_receiver_keeps_no_other_from_getting_it() {
    let (port, lines) = server().await;
    let mail = read(&format!("mailto://u@127.0.0.1:{port}/refused@x.com/b@x.com?from=me@x.org&format=text"));
    let errors = mail.send(&settings(), INVOCATION, "s", "<b>", Timestamp::default()).await.expect_err("one is refused");
    assert!(errors.len() == 1 && errors[0].contains("nobody of that name"), "{errors:?}");
    assert_eq!(lines.lock().iter().filter(|line| *line == "To: b@x.com" || *line == "<b>").count(), 2);
}

#[tokio::test]
async fn nothing_is_sent_without_the_encryption_that_is_asked_for() {
    let (port, lines) = server().await;
    let mail = read(&format!("mailtos://u:p@127.0.0.1:{port}/b@x.com?from=me@x.org"));
    let errors = mail.send(&settings(), INVOCATION, "s", "b", Timestamp::default()).await.expect_err("the server knows none");
    assert_eq!(errors.len(), 1);
    let lines = lines.lock();
    assert!(!lines.iter().any(|line| line.starts_with("AUTH") || line.starts_with("MAIL")), "{lines:?}");
}

#[tokio::test]
async fn private_addresses_are_not_called_where_that_is_not_allowed() {
    let (port, lines) = server().await;
    for (setting, block) in [(false, true), (true, false)] {
        let mail = Mail { allow_private: block, ..read(&format!("mailto://u@127.0.0.1:{port}/b@x.com?from=me@x.org")) };
        let settings = ActionsSettings { private_addresses: setting, ..settings() };
        let errors = mail.send(&settings, INVOCATION, "s", "b", Timestamp::default()).await.expect_err("refused");
        assert!(errors[0].contains("private address"), "{errors:?}");
    }
    assert!(lines.lock().is_empty());
}

#[test]
fn texts_lose_their_tags_and_nothing_else() {
    assert_eq!(without_tags("<h1>Flow</h1> a<br/>b <p>1 < 2 &amp;&lt;x&gt;</p>"), "Flow\n a\nb \n1 < 2 &<x>");
    assert_eq!(without_tags("plain\ntext a<"), "plain\ntext a<");
}
