//! Runs the scripts of `testdata/*.txt` against a `BusState`: a line that begins with `> ` is a command, the lines after it are what
//! is expected to come of it. A bug report becomes a file.
//!
//! Commands joined by ` ; ` are one batch. `at N` sets the time of the batches that follow, `restart` goes through a snapshot into
//! a new state. Payloads are text, or `*N` for N bytes. Ids are small numbers; `-` is no id.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use uuid::Uuid;

use super::command::{Batch, Command, KeyCondition, Member, Reply};
use super::rules::{Limits, Rules};
use super::state::{BusReader, BusState, StateError};
use super::{Message, ReadLimit, Start, Topic};

struct Run {
    directory: tempfile::TempDir,
    opened: u32,
    state: BusState,
    reader: BusReader,
    at_ms: i64,
    index: u64,
}

fn open(directory: &Path, opened: u32) -> (BusState, BusReader) {
    let limits = Limits { hot_bytes_max: 1_000, cache_bytes_max: 1_000 };
    BusState::open(&directory.join(format!("bus-{opened}")), limits).expect("an empty bus opens")
}

impl Run {
    fn new() -> Run {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (state, reader) = open(directory.path(), 0);
        Run { directory, opened: 0, state, reader, at_ms: 1_000, index: 0 }
    }

    async fn line(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["at", at] => {
                self.at_ms = number(at) as i64;
                self.batch(Vec::new())
            }
            ["index", index] => {
                self.index = number(index) - 1;
                String::new()
            }
            ["restart"] => self.restart(),
            ["read", stream, "after", after, rest @ ..] => self.read(stream, number(after), rest).await,
            ["stream", stream] => self.stream(stream),
            ["get", key] => match self.reader.key(key.as_bytes()) {
                Some((value, version)) => format!("{} version {version}\n", String::from_utf8_lossy(&value)),
                None => "none\n".into(),
            },
            ["services"] => self.services(),
            _ => {
                let commands = line.split(" ; ").map(|part| self.command(part)).collect();
                self.batch(commands)
            }
        }
    }

    fn batch(&mut self, commands: Vec<Command>) -> String {
        self.index += 1;
        let batch = Batch { at_ms: self.at_ms, commands };
        assert_eq!(Batch::decode(batch.encode()), Ok(batch.clone()), "a batch survives the wire");
        match self.state.apply(self.index, &batch) {
            Ok(replies) => {
                self.state.check();
                assert_eq!(Reply::decode_all(Reply::encode_all(&replies)), Ok(replies.clone()));
                let lines: Vec<String> = replies.iter().map(show).collect();
                lines.iter().map(String::as_str).flat_map(|line| [line, "\n"]).collect()
            }
            Err(StateError::Diverged { index, .. }) => format!("stops: diverged after {index}\n"),
            Err(error) => format!("stops: {error}\n"),
        }
    }

    fn command(&self, part: &str) -> Command {
        let words: Vec<&str> = part.split_whitespace().collect();
        match words.as_slice() {
            ["publish", stream, messages @ ..] => {
                let messages = messages.iter().map(|message| {
                    let (id, payload) = message.split_once(':').expect("ID:PAYLOAD");
                    let id = if id == "-" { Uuid::nil() } else { Uuid::from_u128(u128::from(number(id))) };
                    let payload = match payload.strip_prefix('*') {
                        Some(count) => Bytes::from(vec![b'x'; number(count) as usize]),
                        None => Bytes::copy_from_slice(payload.as_bytes()),
                    };
                    Message { id, payload }
                });
                Command::Publish { stream: Topic::from(*stream), messages: messages.collect() }
            }
            ["ensure", stream, group, rest @ ..] => {
                let (start, rest) = match rest {
                    ["first", rest @ ..] => (Start::First, rest),
                    ["latest", rest @ ..] => (Start::Latest, rest),
                    ["after", position, rest @ ..] => (Start::After(number(position)), rest),
                    other => panic!("a start, not {other:?}"),
                };
                let idle_ms_max = if let ["idle", idle] = rest { Some(number(idle)) } else { None };
                Command::EnsureGroup { stream: Topic::from(*stream), group: (*group).into(), start, idle_ms_max }
            }
            ["advance", stream, group, position] => {
                Command::AdvanceGroup { stream: Topic::from(*stream), group: (*group).into(), position: number(position) }
            }
            ["delete-group", stream, group] => Command::DeleteGroup { stream: Topic::from(*stream), group: (*group).into() },
            ["set", key, value, rest @ ..] => {
                let (ttl, rest) = if let ["ttl", ttl, rest @ ..] = rest { (Some(number(ttl)), rest) } else { (None, rest) };
                let condition = match rest {
                    [] => KeyCondition::Always,
                    ["if-absent"] => KeyCondition::IfAbsent,
                    ["if-version", version] => KeyCondition::IfVersion(number(version)),
                    other => panic!("a condition, not {other:?}"),
                };
                Command::SetKey {
                    key: Bytes::copy_from_slice(key.as_bytes()),
                    value: Bytes::copy_from_slice(value.as_bytes()),
                    expires_after_ms: ttl,
                    condition,
                }
            }
            ["delete", key, rest @ ..] => Command::DeleteKey {
                key: Bytes::copy_from_slice(key.as_bytes()),
                if_version: if let ["if-version", version] = rest { Some(number(version)) } else { None },
            },
            ["found", id] => Command::FoundCluster { id: Uuid::from_u128(u128::from(number(id))) },
            ["member", id, incarnation, rest @ ..] => Command::SetMember(Member {
                id: number(id),
                http_address: format!("127.0.0.1:{}", 4_200 + number(id)),
                peer_address: format!("127.0.0.1:{}", 7_100 + number(id)),
                version: "1".into(),
                may_run_services: *rest != ["no-services"],
                incarnation: number(incarnation),
            }),
            ["remove", id] => Command::RemoveMember { id: number(id) },
            ["elect", node, rest @ ..] => Command::ElectServices {
                node: number(node),
                replaces: if let ["replaces", epoch] = rest { Some(number(epoch)) } else { None },
            },
            ["resign", node, epoch] => Command::ResignServices { node: number(node), epoch: number(epoch) },
            ["rules", changes @ ..] => {
                let mut rules = self.state.rules.clone();
                for change in changes {
                    change_rule(&mut rules, change);
                }
                Command::SetRules(rules)
            }
            ["checkpoint", index, "right"] => {
                let index = number(index);
                let found = self.state.recent.iter().find(|(at, _)| *at == index);
                Command::Checkpoint { index, checksum: found.expect("that index was applied").1 }
            }
            ["checkpoint", index, "wrong"] => Command::Checkpoint { index: number(index), checksum: 0 },
            other => panic!("no such command: {other:?}"),
        }
    }

    fn restart(&mut self) -> String {
        self.opened += 1;
        let snapshot = self.directory.path().join(format!("snapshot-{}", self.opened));
        std::fs::create_dir(&snapshot).expect("a folder");
        self.state.snapshot().expect("a snapshot").write(&snapshot).expect("written");
        let (mut state, reader) = open(self.directory.path(), self.opened);
        state.restore(&snapshot).expect("restored");
        std::fs::remove_dir_all(&snapshot).expect("removed");
        state.check();
        assert_eq!((state.applied(), state.checksum()), (self.state.applied(), self.state.checksum()));
        (self.state, self.reader) = (state, reader);
        String::new()
    }

    async fn read(&self, stream: &str, after: u64, rest: &[&str]) -> String {
        let mut limit = ReadLimit::default();
        for pair in rest.chunks(2) {
            match pair {
                ["limit", count] => limit.entries = number(count) as usize,
                ["bytes", count] => limit.bytes = number(count) as usize,
                other => panic!("a limit, not {other:?}"),
            }
        }
        match self.reader.read(&Topic::from(stream), after, limit).await {
            Ok(entries) if entries.is_empty() => "nothing\n".into(),
            Ok(entries) => entries.iter().fold(String::new(), |mut out, entry| {
                let payload = match entry.payload.len() {
                    ..=20 => String::from_utf8_lossy(&entry.payload).into_owned(),
                    length => format!("*{length}"),
                };
                writeln!(out, "{} at {} {}:{payload}", entry.position, entry.at, entry.id.as_u128()).expect("a string");
                out
            }),
            Err(error) => format!("error: {error}\n"),
        }
    }

    fn stream(&self, stream: &str) -> String {
        let topic = Topic::from(stream);
        let Some(view) = self.reader.streams().into_iter().find(|view| view.topic == topic) else {
            return "none\n".into();
        };
        let mut out = format!("{}..{} bytes {}\n", view.first, view.last, view.bytes);
        for (group, position) in view.groups {
            writeln!(out, "{group} at {position}").expect("a string");
        }
        out
    }

    fn services(&self) -> String {
        let view = self.reader.cluster().borrow().clone();
        let members = view.members.values();
        let members: Vec<String> = members.map(|member| format!("{}/{}", member.id, member.incarnation)).collect();
        let lead = view.services.map_or("nobody".into(), |lead| format!("{} in epoch {}", lead.node, lead.epoch));
        format!("leader {lead}, newest epoch {}, members {}\n", view.newest_epoch, members.join(" "))
    }
}

fn change_rule(rules: &mut Rules, change: &str) {
    let (name, value) = change.split_once('=').expect("NAME=VALUE");
    let field = match name {
        "backlog" => &mut rules.backlog_bytes_max,
        "window" => &mut rules.window_bytes_max,
        "window-ms" => &mut rules.window_ms_max,
        "segment" => &mut rules.segment_bytes_max,
        "segment-entries" => &mut rules.segment_entries_max,
        "tails" => &mut rules.tail_bytes_max,
        "payload" => &mut rules.payload_bytes_max,
        "streams" => &mut rules.streams_max,
        "groups" => &mut rules.groups_max,
        "dedupe-ms" => &mut rules.dedupe_ms_max,
        "dedupe" => &mut rules.dedupe_entries_max,
        "keys" => &mut rules.keys_max,
        "keys-bytes" => &mut rules.keys_bytes_max,
        other => panic!("no such rule: {other}"),
    };
    *field = number(value);
}

fn show(reply: &Reply) -> String {
    match reply {
        Reply::Done => "done".into(),
        Reply::Refused(reason) => format!("refused: {reason}"),
        Reply::Published(published) => {
            format!("published {}..{}, {} before", published.first, published.last, published.duplicates)
        }
        Reply::Full { bytes, bytes_max } => format!("full: {bytes} of {bytes_max}"),
        Reply::GroupAt(position) => format!("at {position}"),
        Reply::NoSuchStream => "no such stream".into(),
        Reply::NoSuchGroup => "no such group".into(),
        Reply::KeyAt(version) => format!("version {version}"),
        Reply::KeyConflict(None) => "conflict: none".into(),
        Reply::KeyConflict(Some(version)) => format!("conflict: version {version}"),
        Reply::Elected(epoch) => format!("elected in epoch {epoch}"),
    }
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("a number, not {word:?}"))
}

async fn run(script: &str) -> Result<usize, String> {
    let mut run = Run::new();
    let mut lines = script.lines().enumerate().filter(|(_, line)| !line.starts_with('#')).peekable();
    let mut commands = 0;
    while let Some((number, line)) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        let command = line.strip_prefix("> ").ok_or_else(|| format!("line {}: not a command: {line}", number + 1))?;
        let mut expected = String::new();
        while let Some((_, line)) = lines.next_if(|(_, line)| !line.starts_with("> ")) {
            if !line.trim().is_empty() {
                writeln!(expected, "{line}").expect("a string");
            }
        }
        let found = run.line(command).await;
        if found != expected {
            return Err(format!("line {}: > {command}\nexpected:\n{expected}found:\n{found}", number + 1));
        }
        commands += 1;
    }
    Ok(commands)
}

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bus/testdata");
    let files = std::fs::read_dir(folder).expect("the scripts are there");
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    files
}

#[tokio::test]
async fn scripts_come_to_what_they_say() {
    let mut failures = Vec::new();
    let mut commands = 0;
    for file in scripts() {
        match run(&std::fs::read_to_string(&file).expect("a script")).await {
            Ok(count) => commands += count,
            Err(error) => failures.push(format!("{}: {error}", file.display())),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    assert!(commands > 100, "only {commands} commands were run");
}

#[tokio::test]
async fn a_script_that_says_otherwise_fails() {
    assert!(run("> publish events 1:a\npublished 1..1, 0 before\n").await.is_ok());
    assert!(run("> publish events 1:a\npublished 2..2, 0 before\n").await.is_err());
    assert!(run("> publish events 1:a\n").await.is_err());
}
