//! The reference's little query language of text searches over events and logs
//! (`prefect/server/utilities/text_search_parser.py`): words are alternatives, `-word` or `!word` excludes, `+word` is
//! required, `"a phrase"` is one word, `\"` a quote within it.

/// A parsed query; all matching ignores case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextSearch {
    /// One of these must occur, where there are any.
    pub include: Vec<String>,
    /// None of these may occur.
    pub exclude: Vec<String>,
    /// All of these must occur.
    pub required: Vec<String>,
}

impl TextSearch {
    /// Parses a query; any text is one.
    pub fn parse(query: &str) -> Self {
        let mut result = Self::default();
        let mut letters = query.chars().peekable();
        while let Some(letter) = letters.next() {
            if letter.is_whitespace() {
                continue;
            }
            let (prefix, first) = match letter {
                '-' | '!' | '+' => match letters.peek() {
                    Some(next) if !next.is_whitespace() => (Some(letter), letters.next().unwrap_or_default()),
                    _ => continue,
                },
                other => (None, other),
            };
            let mut term = String::new();
            if first == '"' {
                while let Some(letter) = letters.next() {
                    match letter {
                        '"' => break,
                        '\\' => match letters.next() {
                            Some(escaped @ ('"' | '\\')) => term.push(escaped),
                            Some(other) => term.extend(['\\', other]),
                            None => term.push('\\'),
                        },
                        other => term.push(other),
                    }
                }
            } else {
                term.push(first);
                while let Some(letter) = letters.next_if(|letter| !letter.is_whitespace() && *letter != '"') {
                    term.push(letter);
                }
            }
            if term.trim().is_empty() {
                continue;
            }
            let term = term.to_lowercase();
            match prefix {
                Some('+') => result.required.push(term),
                Some(_) => result.exclude.push(term),
                None => result.include.push(term),
            }
        }
        result
    }

    /// Whether a text fits.
    pub fn matches(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let has = |term: &String| text.contains(term.as_str());
        (self.include.is_empty() || self.include.iter().any(has)) && !self.exclude.iter().any(has) && self.required.iter().all(has)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_words_and_phrases_with_prefixes() {
        for (query, include, exclude, required) in [
            ("", "", "", ""),
            ("Error warning", "error|warning", "", ""),
            ("error -debug !trace +flow", "error", "debug|trace", "flow"),
            ("\"connection timeout\" -\"heart beat\"", "connection timeout", "heart beat", ""),
            ("- error", "error", "", ""),
            ("a\"b c\"", "a|b c", "", ""),
            ("\"say \\\"hi\\\" \\\\ \\n\"", "say \"hi\" \\ \\n", "", ""),
            ("\"open end", "open end", "", ""),
            ("\"  \" x", "x", "", ""),
        ] {
            let parsed = TextSearch::parse(query);
            let joined = [parsed.include.join("|"), parsed.exclude.join("|"), parsed.required.join("|")];
            assert_eq!(joined, [include, exclude, required], "{query}");
        }
    }

    #[test]
    fn words_phrases_and_prefixes() {
        let search = TextSearch::parse(r#"error -debug "Connection \"x\" lost" +now - !old"#);
        assert_eq!(search.include, ["error", "connection \"x\" lost"]);
        assert_eq!(search.exclude, ["debug", "old"]);
        assert_eq!(search.required, ["now"]);
        assert!(search.matches("An ERROR now"));
        assert!(!search.matches("An ERROR now, debug"));
        assert!(!search.matches("now"));
        assert!(TextSearch::parse("  ").matches("anything"));
    }
}
