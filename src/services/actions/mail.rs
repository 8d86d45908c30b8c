//! E-mail by SMTP, for notification blocks whose address is in the form of the reference's library (apprise):
//! `mailto://user:password@host:port/receiver/...` without and `mailtos://` with encryption; `?to=`, `cc=`, `bcc=`,
//! `reply=`, `from=`, `name=`, `user=`, `pass=`, `smtp=` (the server, where it is not the host), `mode=` (`insecure`,
//! `starttls`, `ssl`), `format=` (`html`, `text`), `verify=` (of the certificate) and `+Name=` (a header) say more.
//!
//! A mail names its invocation in `Message-ID` and `Idempotency-Key`: one that is sent again, since its node died before
//! it could tell, is the same mail to whoever looks there. Where encryption is asked for nothing is sent without.

use std::net::SocketAddr;
use std::time::Duration;

use lettre::message::header::{HeaderName, HeaderValue, MessageId};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, Message};
use percent_encoding::percent_decode_str;
use uuid::Uuid;

use super::http::{IDEMPOTENCY_KEY, is_private};
use super::notification::AGENT;
use crate::clock::Timestamp;
use crate::config::ActionsSettings;
use crate::limits;
use crate::telemetry::chain;

/// How a connection is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Insecure,
    StartTls,
    Tls,
}

impl Mode {
    fn of(word: &str) -> Result<Self, String> {
        match word.to_lowercase().as_str() {
            "insecure" => Ok(Self::Insecure),
            "starttls" => Ok(Self::StartTls),
            "ssl" => Ok(Self::Tls),
            _ => Err(format!("The secure mode specified ({word}) is invalid.")),
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Insecure => 25,
            Self::StartTls => 587,
            Self::Tls => 465,
        }
    }
}

/// Who logs in at a known provider: the whole address, the part before the at sign, or whatever was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Login {
    Address,
    Name,
    Any,
}

/// Providers whose servers need not be named, as the reference knows them: by the domain of the address.
const PROVIDERS: &[(&[&str], &str, Mode, Login)] = &[
    (&["gmail.com"], "smtp.gmail.com", Mode::StartTls, Login::Address),
    (
        &["yandex.com", "yandex.ru", "yandex.ua", "yandex.by", "yandex.kz", "yandex.uz", "yandex.tr", "yandex.fr"],
        "smtp.yandex.ru",
        Mode::Tls,
        Login::Name,
    ),
    (&["hotmail.com", "hotmail.com.au", "live.com", "live.com.au"], "smtp-mail.outlook.com", Mode::StartTls, Login::Address),
    (&["outlook.com", "outlook.com.au", "smtp.outlook.com", "smtp.outlook.com.au"], "smtp.outlook.com", Mode::StartTls, Login::Address),
    (&["office365.com", "smtp.office365.com"], "smtp.office365.com", Mode::StartTls, Login::Any),
    (&["yahoo.com", "yahoo.ca"], "smtp.mail.yahoo.com", Mode::Tls, Login::Address),
    (&["gmx.com", "gmx.net", "gmx.de", "gmx.at", "gmx.ch", "gmx.fr"], "mail.gmx.com", Mode::StartTls, Login::Address),
    (&["fastmail.com", "fastmail.fm", "fastmail.de", "fastmail.co.uk"], "smtp.fastmail.com", Mode::Tls, Login::Address),
    (&["zoho.com", "zohomail.com"], "smtp.zoho.com", Mode::StartTls, Login::Address),
    (&["sendgrid.com", "sendgrid.net"], "smtp.sendgrid.net", Mode::Tls, Login::Name),
    (&["163.com"], "smtp.163.com", Mode::Tls, Login::Address),
    (&["qq.com", "foxmail.com"], "smtp.qq.com", Mode::StartTls, Login::Address),
    (&["comcast.net"], "smtp.comcast.net", Mode::Tls, Login::Address),
];

/// A notification on its way by e-mail.
#[derive(Debug, PartialEq)]
pub(super) struct Mail {
    server: String,
    port: u16,
    mode: Mode,
    verify: bool,
    /// User and password.
    login: Option<(String, String)>,
    from: Mailbox,
    to: Vec<Mailbox>,
    cc: Vec<Mailbox>,
    bcc: Vec<Mailbox>,
    reply_to: Vec<Mailbox>,
    headers: Vec<(String, String)>,
    html: bool,
    /// Whether private addresses may be called, as far as the block says.
    allow_private: bool,
}

/// Whether an address is one of this file.
pub(super) fn is_mail(address: &str) -> bool {
    address.split_once("://").is_some_and(|(scheme, _)| ["mailto", "mailtos"].contains(&scheme.to_lowercase().as_str()))
}

impl Mail {
    /// Reads an address.
    ///
    /// # Errors
    /// What keeps it from being used. Names no password.
    pub fn read(address: &str, allow_private: bool) -> Result<Self, String> {
        let url: url::Url = address.parse().map_err(|error| format!("the address is none: {error}"))?;
        let given: Vec<(String, String)> = url.query_pairs().into_owned().filter(|(_, value)| !value.is_empty()).collect();
        let query = |name: &str| given.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone());
        let mut host = decoded(url.host_str().unwrap_or_default());
        let mut receivers = Vec::new();
        if host.contains('@') {
            receivers.push(std::mem::take(&mut host));
        }
        let mut user = query("user").or_else(|| Some(decoded(url.username())).filter(|user| !user.is_empty()));
        let password = query("pass").or_else(|| url.password().map(decoded));
        let secure = url.scheme() == "mailtos";
        let asked = query("mode").map(|word| Mode::of(&word)).transpose()?;
        let mut mode = asked.unwrap_or(if secure { Mode::StartTls } else { Mode::Insecure });
        let mut port = mode.port();
        let mut server = query("smtp").unwrap_or_default();

        if server.is_empty() {
            let local = user.as_deref().and_then(|user| user.split('@').next()).map(str::to_owned);
            let domain = if host.is_empty() { user.as_deref().and_then(domain_of).unwrap_or_default() } else { host.clone() };
            let known = PROVIDERS.iter().find(|(domains, ..)| domains.contains(&domain.to_lowercase().as_str()));
            if let Some((_, at, how, login)) = known {
                (*at).clone_into(&mut server);
                // As in the reference, the provider's port goes with another mode too.
                port = how.port();
                mode = asked.unwrap_or(*how);
                host.clone_from(&domain);
                user = match (login, user, local) {
                    (Login::Address, Some(user), _) if !user.contains('@') => Some(format!("{user}@{host}")),
                    (Login::Name, Some(_), local) => local,
                    (_, user, _) => user,
                };
            }
        }
        let mut from = None;
        if let Some(user) = &user {
            if host.is_empty() {
                host = domain_of(user).unwrap_or_default();
            }
            let local = user.split(['@', ' ']).next().unwrap_or_default();
            from = Some((AGENT.to_owned(), format!("{local}@{host}")));
        } else if ["localhost", "localhost.localdomain"].contains(&host.as_str()) {
            from = Some((String::new(), format!("root@{host}")));
        }
        let name = query("name");
        if let Some(given) = query("from").or_else(|| name.clone()) {
            from = Some(match mailbox(&given) {
                Some(found) => (name.or(found.name).unwrap_or_default(), found.email.to_string()),
                None => (given, from.map(|(_, address)| address).unwrap_or_default()),
            });
        }
        let (name, email) = from.unwrap_or_default();
        let Ok(email) = email.parse::<Address>() else { return Err(format!("Invalid ~From~ email specified: {email}")) };
        let from = Mailbox::new(Some(name).filter(|name| !name.is_empty()), email);

        receivers.extend(url.path().split('/').map(decoded).filter(|part| !part.is_empty()));
        receivers.extend(query("to"));
        let to = if receivers.is_empty() { vec![Mailbox::new(None, from.email.clone())] } else { mailboxes(&receivers.join(",")) };
        if to.is_empty() {
            return Err("There are no Email recipients to notify".to_owned());
        }
        let list = |name: &str| query(name).map(|text| mailboxes(&text)).unwrap_or_default();
        // The plus sign of a header's name stands for a space in a query.
        let header = |(key, value): &(String, String)| Some((key.strip_prefix([' ', '+'])?.to_owned(), value.clone()));
        Ok(Self {
            server: if server.is_empty() { host } else { server },
            port: url.port().unwrap_or(port),
            mode,
            verify: query("verify")
                .is_none_or(|word| !["no", "false", "0", "off", "never", "deny"].contains(&word.to_lowercase().as_str())),
            login: user.zip(password),
            from,
            to,
            cc: list("cc"),
            bcc: list("bcc"),
            reply_to: list("reply"),
            headers: given.iter().filter_map(header).collect(),
            html: query("format").is_none_or(|word| word.eq_ignore_ascii_case("html")),
            allow_private,
        })
    }

    /// The messages, one to each receiver.
    ///
    /// # Errors
    /// A header that cannot be.
    fn messages(&self, invocation: Uuid, subject: &str, body: &str, now: Timestamp) -> Result<Vec<Message>, String> {
        let others = |list: &[Mailbox], but: &[&Mailbox]| -> Vec<Mailbox> {
            list.iter().filter(|one| !but.iter().any(|but| but.email == one.email)).cloned().collect()
        };
        let one = |(number, to): (usize, &Mailbox)| {
            let mut message = Message::builder()
                .from(self.from.clone())
                .to(to.clone())
                .subject(subject)
                .date(now.into())
                .header(MessageId::from(format!("<{invocation}.{number}@{}>", self.from.email.domain())));
            let hidden: Vec<&Mailbox> = self.bcc.iter().chain([to]).collect();
            for other in others(&self.cc, &hidden) {
                message = message.cc(other);
            }
            for other in others(&self.bcc, &[to]) {
                message = message.bcc(other);
            }
            for other in others(&self.reply_to, &[to]) {
                message = message.reply_to(other);
            }
            let own = [("X-Application".to_owned(), AGENT.to_owned()), (IDEMPOTENCY_KEY.to_owned(), invocation.to_string())];
            for (name, value) in own.into_iter().chain(self.headers.clone()) {
                let told = format!("{name} is no name of a header");
                message = message.raw_header(HeaderValue::new(HeaderName::new_from_ascii(name).map_err(|_| told)?, value));
            }
            let message = if self.html {
                message.multipart(MultiPart::alternative_plain_html(without_tags(body), body.to_owned()))
            } else {
                message.singlepart(SinglePart::plain(body.to_owned()))
            };
            message.map_err(|error| chain(&error))
        };
        if self.to.len() > limits::NOTIFICATION_REQUESTS {
            return Err(format!("a notification goes to {} receivers at most", limits::NOTIFICATION_REQUESTS));
        }
        self.to.iter().enumerate().map(one).collect()
    }

    /// Sends it to all receivers, and goes on where one is refused.
    ///
    /// # Errors
    /// One for each receiver that was not sent to.
    pub async fn send(
        &self,
        settings: &ActionsSettings,
        invocation: Uuid,
        subject: &str,
        body: &str,
        now: Timestamp,
    ) -> Result<(), Vec<String>> {
        let messages = self.messages(invocation, subject, body, now).map_err(|error| vec![error])?;
        let mut connection = None;
        let mut errors = Vec::new();
        for message in messages {
            // One that failed is in an unknown state.
            match within(settings.timeout, Box::pin(self.deliver(connection.take(), settings, &message))).await {
                Ok(open) => connection = Some(open),
                Err(error) => errors.push(error),
            }
        }
        if let Some(mut connection) = connection {
            // The mails are taken; whether the farewell is answered says nothing.
            let _answered = tokio::time::timeout(settings.timeout, connection.quit()).await;
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    async fn deliver(
        &self,
        open: Option<AsyncSmtpConnection>,
        settings: &ActionsSettings,
        message: &Message,
    ) -> Result<AsyncSmtpConnection, String> {
        let mut connection = match open {
            Some(connection) => connection,
            None => self.connect(settings).await?,
        };
        connection.send(message.envelope(), &message.formatted()).await.map_err(|error| chain(&error))?;
        Ok(connection)
    }

    async fn connect(&self, settings: &ActionsSettings) -> Result<AsyncSmtpConnection, String> {
        let found: Vec<SocketAddr> =
            tokio::net::lookup_host((self.server.as_str(), self.port)).await.map_err(|error| error.to_string())?.collect();
        if !(self.allow_private && settings.private_addresses)
            && let Some(private) = found.iter().find(|address| is_private(address.ip()))
        {
            return Err(format!("it resolves to the private address {}, which may not be called", private.ip()));
        }
        let told = |error: lettre::transport::smtp::Error| chain(&error);
        let secured = TlsParameters::builder(self.server.clone()).dangerous_accept_invalid_certs(!self.verify).build().map_err(told)?;
        let name = ClientId::default();
        let wrapped = (self.mode == Mode::Tls).then(|| secured.clone());
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(found.as_slice(), Some(settings.timeout), &name, wrapped, None).await.map_err(told)?;
        if self.mode == Mode::StartTls {
            connection.starttls(secured, &name).await.map_err(told)?;
        }
        if let Some((user, password)) = &self.login {
            let credentials = Credentials::new(user.clone(), password.clone());
            connection.auth(DEFAULT_MECHANISMS, &credentials).await.map_err(told)?;
        }
        Ok(connection)
    }
}

async fn within<T>(time: Duration, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(time, work).await.unwrap_or_else(|_| Err(format!("no answer within {} s", time.as_secs_f64())))
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn domain_of(address: &str) -> Option<String> {
    address.parse::<Address>().ok().map(|address| address.domain().to_owned())
}

fn mailbox(text: &str) -> Option<Mailbox> {
    text.trim().parse().ok()
}

/// The addresses of a list; what is none is left out, as in the reference.
fn mailboxes(text: &str) -> Vec<Mailbox> {
    text.split([',', ';']).filter_map(mailbox).collect()
}

/// A text without its HTML tags, for readers that show none.
fn without_tags(html: &str) -> String {
    let mut plain = String::new();
    let mut rest = html;
    while let Some((before, after)) = rest.split_once('<') {
        plain.push_str(before);
        match after.split_once('>') {
            Some((tag, behind)) if tag.starts_with(|first: char| first.is_ascii_alphabetic() || "/!".contains(first)) => {
                let name = tag.trim_start_matches('/').split(|letter: char| !letter.is_ascii_alphanumeric()).next().unwrap_or_default();
                if ["br", "p", "div", "li", "tr", "h1", "h2", "h3", "h4"].contains(&name.to_lowercase().as_str()) && !plain.ends_with('\n')
                {
                    plain.push('\n');
                }
                rest = behind;
            }
            _ => {
                plain.push('<');
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&nbsp;", " "), ("&amp;", "&")]
        .iter()
        .fold(plain, |text, (entity, letter)| text.replace(entity, letter))
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests;
