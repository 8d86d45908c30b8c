//! Templates of users: what may be in one. (Rendering belongs here too: bounded in time and output, with the reference's
//! filters.)
//!
//! The engine is minijinja. What the reference's lexer refuses is found here, in its words and at its place; so are its
//! bounds on loops. The rest of what is wrong is told in minijinja's words.

use minijinja::Environment;

/// Loops of one template, at most; as the reference.
const LOOPS_MAX: usize = 10;

/// Loops inside of one another, at most; as the reference.
const LOOP_DEPTH_MAX: usize = 2;

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TemplateError {
    /// Counted from 1; 0 where it is about the whole.
    pub line: usize,
    /// For people.
    pub message: String,
}

/// True where the text may be a template at all; any other is its own rendering.
pub fn maybe_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}

/// Checks a template without rendering it.
///
/// # Errors
/// The first thing that is wrong.
pub fn validate(template: &str) -> Result<(), TemplateError> {
    let loops = Lexer::new(template).loops()?;
    let environment = Environment::new();
    environment.template_from_str(template).map_err(|error| TemplateError {
        line: error.line().unwrap_or(1),
        message: error.detail().map_or_else(|| error.kind().to_string(), str::to_owned),
    })?;
    if loops.count > LOOPS_MAX {
        let message = format!("Contains {} for loops. Templates can contain no more than {LOOPS_MAX} for loops.", loops.count);
        return Err(TemplateError { line: 0, message });
    }
    if loops.depth > LOOP_DEPTH_MAX {
        let message = format!(
            "Contains nested for loops at a depth of {}. Templates can nest for loops no more than {LOOP_DEPTH_MAX} loops deep.",
            loops.depth
        );
        return Err(TemplateError { line: 0, message });
    }
    Ok(())
}

#[derive(Default)]
struct Loops {
    count: usize,
    depth: usize,
}

/// Walks over a template as Jinja's lexer does, as far as loops and unexpected letters are concerned.
struct Lexer<'t> {
    source: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    fn new(source: &'t str) -> Self {
        Self { source, at: 0 }
    }

    fn rest(&self) -> &'t str {
        &self.source[self.at..]
    }

    /// Moves behind the next `what`, or to the end.
    fn skip_past(&mut self, what: &str) {
        self.at = self.rest().find(what).map_or(self.source.len(), |found| self.at + found + what.len());
    }

    fn loops(&mut self) -> Result<Loops, TemplateError> {
        let mut loops = Loops::default();
        let mut open = 0_usize;
        while let Some(found) = self.rest().find('{') {
            self.at += found + 1;
            match self.rest().bytes().next() {
                Some(b'#') => self.skip_past("#}"),
                Some(b'{') => {
                    self.at += 1;
                    self.block("}}")?;
                }
                Some(b'%') => {
                    self.at += 1;
                    match self.block("%}")? {
                        Some("for") => {
                            loops.count += 1;
                            open += 1;
                            loops.depth = loops.depth.max(open);
                        }
                        Some("endfor") => open = open.saturating_sub(1),
                        Some("raw") => self.skip_raw(),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        Ok(loops)
    }

    /// Moves behind the tag that ends a raw block.
    fn skip_raw(&mut self) {
        while self.at < self.source.len() {
            self.skip_past("{%");
            let tag = self.rest().trim_start_matches(['-', '+']).trim_start();
            if tag.starts_with("endraw") {
                return self.skip_past("%}");
            }
        }
    }

    /// Walks to the end of a tag or an expression; gives its first word.
    fn block(&mut self, end: &str) -> Result<Option<&'t str>, TemplateError> {
        let mut first = None;
        let mut begun = false;
        while let Some(letter) = self.rest().chars().next() {
            let rest = self.rest();
            // `-` before the end trims blanks.
            let trimmed = rest.strip_prefix('-').unwrap_or(rest);
            if trimmed.starts_with(end) {
                self.at += rest.len() - trimmed.len() + end.len();
                return Ok(first);
            }
            let length = match letter {
                '"' | '\'' => string_length(rest).ok_or_else(|| self.unexpected(letter))?,
                _ if letter.is_whitespace() => letter.len_utf8(),
                _ if letter.is_alphanumeric() || letter == '_' => {
                    let word = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
                    if !begun {
                        first = Some(&rest[..word]);
                    }
                    word
                }
                '+' | '-' | '/' | '*' | '%' | '~' | '[' | ']' | '(' | ')' | '{' | '}' | '=' | '!' | '>' | '<' | '.' | ':' | '|' | ','
                | ';' => 1,
                _ => return Err(self.unexpected(letter)),
            };
            begun |= !letter.is_whitespace() && !matches!(letter, '-' | '+');
            self.at += length;
        }
        Ok(first)
    }

    fn unexpected(&self, letter: char) -> TemplateError {
        let before = &self.source[..self.at];
        // Python shows a letter within single quotes, unless it is one.
        let shown = if letter == '\'' { "\"'\"".to_owned() } else { format!("'{letter}'") };
        TemplateError { line: before.matches('\n').count() + 1, message: format!("unexpected char {shown} at {}", before.chars().count()) }
    }
}

/// Bytes of the quoted text at the start; `None` where it does not end.
fn string_length(text: &str) -> Option<usize> {
    let quote = text.chars().next()?;
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_templates_pass() {
        for template in [
            "",
            "no template } at % all",
            "{{ event.resource.name | unknown_filter }}",
            "{% for a in b %}{% for c in d %}{{ c }}{% endfor %}{% endfor %}",
            "{# {% for #}{% raw %}{% for x in {{ {% endraw %}{{ '{% for a in b %}' }}",
            "{{ {'a': {'b': 1}} }}{{- x -}}",
        ] {
            assert_eq!(validate(template), Ok(()), "{template}");
        }
    }

    #[test]
    fn what_the_references_lexer_refuses_is_told_in_its_words() {
        let error = validate("1 - {{ hello }} world!\n2 - oops, this {{ ain't } gonna work\n3 - fine").expect_err("bad");
        assert_eq!((error.line, error.message.as_str()), (2, "unexpected char \"'\" at 44"));
        assert_eq!(validate("{{ a ? b }}").expect_err("bad").message, "unexpected char '?' at 5");
        assert_eq!(validate("a\n{{ x").expect_err("no end").line, 2);
    }

    #[test]
    fn loops_are_bounded() {
        let nested = |depth| format!("{}{}", "{% for a in b %}".repeat(depth), "{% endfor %}".repeat(depth));
        assert_eq!(validate(&nested(2)), Ok(()));
        let error = validate(&nested(3)).expect_err("too deep");
        assert_eq!((error.line, error.message.starts_with("Contains nested for loops at a depth of 3.")), (0, true));
        assert_eq!(validate(&nested(1).repeat(10)), Ok(()));
        assert!(validate(&nested(1).repeat(11)).expect_err("too many").message.starts_with("Contains 11 for loops."));
    }
}
