//! What the compiler does not check: layers, file sizes, text that must not appear.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Layers, lowest first; a module imports from its own layer or lower ones. Within a layer only what is named by
/// [`SIBLINGS`] may import each other.
const LAYERS: &[&[&str]] = &[
    &["id", "clock", "limits"],
    &["model"],
    &["schedule", "parameters"],
    &["config", "telemetry", "task", "listener"],
    &["store", "bus"],
    &["cluster"],
    &["events", "blocks"],
    &["app"],
    &["orchestration"],
    &["automations"],
    &["services", "api", "resp", "console"],
    &["cli", "ask"],
    &["node"],
    &["dev"],
];

/// Pairs within one layer of which the first may import the second.
const SIBLINGS: &[(&str, &str)] = &[
    ("id", "clock"),
    ("limits", "clock"),
    ("blocks", "events"),
    ("telemetry", "config"),
    ("task", "telemetry"),
    ("listener", "task"),
    ("listener", "telemetry"),
    ("ask", "cli"),
    // Actions of automations do what clients may ask for, in transactions of their own.
    ("services", "api"),
];

/// Lines of a file at most; the style asks for 100 to 400.
const LINES_MAX: usize = 1000;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `directory` that end in one of `endings`.
fn files(directory: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![root().join(directory)];
    while let Some(directory) = left.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                left.push(path);
            } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The module of `src/` that a file belongs to.
fn module(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).expect("a file of src");
    let first = inside.components().next().expect("a name").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The modules that a text names as `crate::module`, also inside of `use crate::{...}`.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let code = line.split("//").next().unwrap_or_default();
        for (at, _) in code.match_indices("crate::") {
            let rest = &code[at + "crate::".len()..];
            if let Some(group) = rest.strip_prefix('{') {
                let mut depth = 0;
                let mut name = String::new();
                for character in group.chars() {
                    match character {
                        '{' => depth += 1,
                        '}' if depth > 0 => depth -= 1,
                        ',' | '}' if depth == 0 => found.push(std::mem::take(&mut name)),
                        _ if depth == 0 => name.push(character),
                        _ => {}
                    }
                }
            } else {
                found.push(rest.to_owned());
            }
        }
    }
    let name = |text: String| text.trim().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>();
    found.into_iter().map(name).filter(|name| !name.is_empty()).collect()
}

/// Whether a module may import another one.
fn may_import(from: &str, to: &str) -> bool {
    let (Some(lower), Some(upper)) = (layer(to), layer(from)) else { return from == to };
    lower < upper || from == to || SIBLINGS.contains(&(from, to))
}

/// The part of a file before its tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

#[test]
fn no_layer_imports_a_higher_one() {
    let mut wrong = Vec::new();
    for path in files("src", &[".rs"]) {
        let from = module(&path);
        if from == "lib" || from == "main" {
            continue;
        }
        if layer(&from).is_none() {
            wrong.push(format!("{}: the module {from} is in no layer; add it to LAYERS", shown(&path)));
            continue;
        }
        for to in imports(&read(&path)) {
            if !may_import(&from, &to) {
                wrong.push(format!("{}: {from} imports {to}, which is not below it", shown(&path)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_stay_readable() {
    let mut wrong = Vec::new();
    for path in ["src", "tests", "jepsen/src", "proto"].iter().flat_map(|directory| files(directory, &[".rs", ".proto"])) {
        let lines = read(&path).lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{}: {lines} lines, at most {LINES_MAX}", shown(&path)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_says_what_it_is_for() {
    let mut wrong = Vec::new();
    for path in ["src", "jepsen/src"].iter().flat_map(|directory| files(directory, &[".rs"])) {
        if !path.ends_with("tests.rs") && !read(&path).starts_with("//!") {
            wrong.push(shown(&path));
        }
    }
    assert!(wrong.is_empty(), "no head comment:\n{}", wrong.join("\n"));
}

/// Text that must not appear, where it may, and why.
struct Ban {
    text: &'static str,
    allowed_in: &'static [&'static str],
    reason: &'static str,
}

const BANS: &[Ban] = &[
    Ban { text: concat!("todo", "!("), allowed_in: &[], reason: "nothing is left to do later" },
    Ban { text: concat!("unimplemented", "!("), allowed_in: &[], reason: "nothing is left to do later" },
    Ban { text: concat!("dbg", "!("), allowed_in: &[], reason: "a leftover" },
    Ban { text: concat!("#[ig", "nore"), allowed_in: &[], reason: "a test that does not run tests nothing" },
    Ban { text: concat!("tokio::", "spawn("), allowed_in: &["src/task.rs", "tests/", "jepsen/"], reason: "use Tasks::spawn" },
    Ban { text: concat!("tokio::task::", "spawn("), allowed_in: &["src/task.rs", "tests/", "jepsen/"], reason: "use Tasks::spawn" },
    Ban { text: concat!("Utc::", "now("), allowed_in: &["src/clock.rs", "tests/", "jepsen/"], reason: "time comes from the clock" },
    Ban { text: concat!("SystemTime::", "now("), allowed_in: &["src/clock.rs", "tests/", "jepsen/"], reason: "time comes from the clock" },
    Ban { text: concat!("Uuid::", "new_v4("), allowed_in: &["src/id.rs", "tests/", "jepsen/"], reason: "ids come from id.rs" },
    Ban { text: concat!("Uuid::", "now_v7("), allowed_in: &["src/id.rs", "tests/", "jepsen/"], reason: "ids come from id.rs" },
    Ban { text: concat!("unbounded_", "channel"), allowed_in: &[], reason: "every queue has a bound" },
    Ban { text: concat!("#![all", "ow("), allowed_in: &["tests/harness/mod.rs"], reason: "use #![expect(lint, reason = ...)]" },
    Ban { text: concat!("#[all", "ow("), allowed_in: &["src/cluster/types.rs"], reason: "use #[expect(lint, reason = ...)]" },
    Ban { text: concat!("/ho", "me/user"), allowed_in: &[], reason: "a path of one machine" },
    Ban { text: concat!("/wo", "rk/"), allowed_in: &[], reason: "a path of one machine" },
];

/// Where `tests/` may do something, so may the test modules of `src`.
fn is_tests_of_src(name: &str, allowed: &str) -> bool {
    allowed == "tests/" && name.starts_with("src/") && (name.contains("/tests/") || name.ends_with("/tests.rs"))
}

#[test]
fn banned_text_does_not_appear() {
    let mut wrong = Vec::new();
    let endings = [".rs", ".proto", ".toml", ".md", ".sql", ".yaml", ".sh", "/run", "/Dockerfile", "/base-image", "/prefect-package"];
    let mut paths: Vec<PathBuf> = ["src", "tests", "jepsen", "proto", "docker", "docs", ".ci", ".config"]
        .iter()
        .flat_map(|directory| files(directory, &endings))
        .collect();
    paths.extend(["Cargo.toml", "README.md"].iter().map(|name| root().join(name)));
    for path in paths {
        let name = shown(&path);
        let text = read(&path);
        for (number, line) in text.lines().enumerate() {
            for ban in BANS {
                if line.contains(ban.text)
                    && !ban.allowed_in.iter().any(|allowed| name.starts_with(allowed) || is_tests_of_src(&name, allowed))
                {
                    wrong.push(format!("{name}:{}: {} ({})", number + 1, ban.text, ban.reason));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_store_knows_which_database_it_is() {
    let allowed = ["src/store/", "src/config/", "src/node.rs", "src/dev/", "src/cli.rs"];
    let mut wrong = Vec::new();
    for path in files("src", &[".rs"]) {
        let name = shown(&path);
        if allowed.iter().any(|allowed| name.starts_with(allowed)) {
            continue;
        }
        for (number, line) in without_tests(&read(&path)).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if ["Dialect::Postgres", "Dialect::Sqlite", "PgPool", "SqlitePool"].iter().any(|word| code.contains(word)) {
                wrong.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "what differs between the databases belongs in store/:\n{}", wrong.join("\n"));
}

#[test]
fn metric_names_appear_once_in_the_table_only() {
    let table = root().join("src/telemetry/metrics.rs");
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for part in read(&table).split('"').skip(1).step_by(2).filter(|part| part.starts_with("praetor_")) {
        *seen.entry(part.to_owned()).or_default() += 1;
    }
    assert!(seen.len() > 10, "the table was not found");
    for (name, times) in &seen {
        // `praetor_` alone is what the unit test looks for.
        assert!(*times == 1 || name == "praetor_", "{name} stands {times} times in the table");
    }
    for path in files("src", &[".rs"]) {
        let text = read(&path);
        for word in [concat!("coun", "ter!("), concat!("gau", "ge!("), concat!("histo", "gram!(")] {
            assert!(path == table || !text.contains(word), "{}: metrics are recorded through telemetry::metrics", shown(&path));
        }
    }
}

/// Names of tests in backquotes: `module::module::test`, with `kind: ` before it where it is no unit test; a `*` at the end
/// stands for any end. A name without a test is a module that has tests.
#[test]
fn every_test_that_the_list_of_pains_names_is_there() {
    let sources: Vec<(PathBuf, String)> =
        ["src", "tests"].iter().flat_map(|directory| files(directory, &[".rs"])).map(|path| (path.clone(), read(&path))).collect();
    let has = |module: &str, start: &str, whole: bool| {
        sources.iter().any(|(path, text)| {
            let inside = path.components().any(|part| part.as_os_str().to_string_lossy().trim_end_matches(".rs") == module);
            // The test stands below its attribute, perhaps with others between.
            let mut tests = text.split("#[test]").skip(1).chain(text.split("#[tokio::test").skip(1));
            inside
                && tests.any(|below| {
                    let name = below.split("fn ").nth(1).unwrap_or_default();
                    name.starts_with(start) && (!whole || name[start.len()..].starts_with('('))
                })
        })
    };
    let list = read(&root().join("tests/pains/README.md"));
    let (_, rows) = list.split_once("\n## ").expect("a heading");
    let names: Vec<&str> = rows.split('`').skip(1).step_by(2).filter(|name| name.contains("::") || name.contains(": ")).collect();
    assert!(names.len() > 40, "the list was not found");
    let missing = names.iter().filter(|name| {
        let path: Vec<&str> = name.split("::").flat_map(|part| part.split(": ")).collect();
        let (last, modules) = path.split_last().expect("a name");
        let module = modules.last().copied().unwrap_or_default();
        !(has(module, last.trim_end_matches('*'), !last.ends_with('*')) || has(last, "", false))
    });
    let missing: Vec<&&str> = missing.collect();
    assert!(missing.is_empty(), "the list of pains names tests that are not there: {missing:?}");
}
