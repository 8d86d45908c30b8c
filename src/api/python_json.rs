//! Where and in which words Python's `json` complains about a text that is no JSON: clients see both in a 422.

/// A complaint: the character where it is, and the words. `None` where this finds nothing wrong.
pub fn complaint(text: &str) -> Option<(usize, &'static str)> {
    let letters: Vec<char> = text.chars().collect();
    let mut scanner = Scanner { letters: &letters, at: 0 };
    scanner.whole().err()
}

/// How deep Python follows arrays and objects inside one another, about; then it gives up otherwise.
const DEPTH: usize = 900;

type Checked = Result<(), (usize, &'static str)>;

struct Scanner<'a> {
    letters: &'a [char],
    at: usize,
}

impl Scanner<'_> {
    fn whole(&mut self) -> Checked {
        self.skip_space();
        self.value(0)?;
        self.skip_space();
        if self.at == self.letters.len() { Ok(()) } else { Err((self.at, "Extra data")) }
    }

    fn peek(&self) -> Option<char> {
        self.letters.get(self.at).copied()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.at += 1;
        }
    }

    fn digits(&mut self) -> bool {
        let start = self.at;
        while self.peek().is_some_and(|letter| letter.is_ascii_digit()) {
            self.at += 1;
        }
        self.at > start
    }

    fn value(&mut self, depth: usize) -> Checked {
        if depth > DEPTH {
            return Err((self.at, "Expecting value"));
        }
        let start = self.at;
        match self.peek() {
            Some('"') => self.string(),
            Some('{') => self.object(depth),
            Some('[') => self.array(depth),
            _ => {
                for word in ["null", "true", "false", "NaN", "Infinity", "-Infinity"] {
                    if self.letters[start..].iter().take(word.len()).copied().eq(word.chars()) {
                        self.at += word.len();
                        return Ok(());
                    }
                }
                self.number().map_err(|()| (start, "Expecting value"))
            }
        }
    }

    fn number(&mut self) -> Result<(), ()> {
        self.take('-');
        if !self.take('0') && !self.digits() {
            return Err(());
        }
        let whole = self.at;
        if self.take('.') && !self.digits() {
            self.at = whole;
            return Ok(());
        }
        let fraction = self.at;
        if self.take('e') || self.take('E') {
            let _sign = self.take('+') || self.take('-');
            if !self.digits() {
                self.at = fraction;
            }
        }
        Ok(())
    }

    fn string(&mut self) -> Checked {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err((start, "Unterminated string starting at")),
                Some('"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some('\\') => self.escape(start)?,
                Some(letter) if letter < ' ' => return Err((self.at, "Invalid control character at")),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self, start: usize) -> Checked {
        let at = self.at;
        self.at += 1;
        match self.peek() {
            None => Err((start, "Unterminated string starting at")),
            Some('u') => {
                let digits = self.letters[self.at + 1..].iter().take(4);
                if digits.clone().count() < 4 || !digits.clone().all(char::is_ascii_hexdigit) {
                    return Err((at + 1, "Invalid \\uXXXX escape"));
                }
                self.at += 5;
                Ok(())
            }
            Some('"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err((at, "Invalid \\escape")),
        }
    }

    fn object(&mut self, depth: usize) -> Checked {
        self.at += 1;
        self.skip_space();
        if self.take('}') {
            return Ok(());
        }
        loop {
            if self.peek() != Some('"') {
                return Err((self.at, "Expecting property name enclosed in double quotes"));
            }
            self.string()?;
            self.skip_space();
            if !self.take(':') {
                return Err((self.at, "Expecting ':' delimiter"));
            }
            self.skip_space();
            self.value(depth + 1)?;
            self.skip_space();
            if self.take('}') {
                return Ok(());
            }
            if !self.take(',') {
                return Err((self.at, "Expecting ',' delimiter"));
            }
            self.skip_space();
        }
    }

    fn array(&mut self, depth: usize) -> Checked {
        self.at += 1;
        self.skip_space();
        if self.take(']') {
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            self.skip_space();
            if self.take(']') {
                return Ok(());
            }
            if !self.take(',') {
                return Err((self.at, "Expecting ',' delimiter"));
            }
            self.skip_space();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn complaints_are_pythons() {
        for (text, expected) in [
            (r#"{"a": [1, -2.5e3, "ä\n\u00e4", null, true]} "#, None),
            ("", Some((0, "Expecting value"))),
            ("{", Some((1, "Expecting property name enclosed in double quotes"))),
            (r#"{"a": 1,}"#, Some((8, "Expecting property name enclosed in double quotes"))),
            (r#"{"a" 1}"#, Some((5, "Expecting ':' delimiter"))),
            ("[1 2]", Some((3, "Expecting ',' delimiter"))),
            ("[1,]", Some((3, "Expecting value"))),
            (r#"["ä"#, Some((1, "Unterminated string starting at"))),
            ("nope", Some((0, "Expecting value"))),
            ("3x", Some((1, "Extra data"))),
            ("\"\u{1}\"", Some((1, "Invalid control character at"))),
            (r#""\x""#, Some((1, "Invalid \\escape"))),
        ] {
            assert_eq!(complaint(text), expected, "{text}");
        }
    }
}
