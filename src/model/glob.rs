//! Patterns of labels: Python's `fnmatch.fnmatchcase`, and the leading `!` by which Prefect negates them.

/// True where `value` fits `pattern` as a whole: `*` any run, `?` any character, `[abc]`, `[a-z]`, `[!abc]` a class.
pub fn fnmatch(pattern: &str, value: &str) -> bool {
    let (pattern, value): (Vec<char>, Vec<char>) = (pattern.chars().collect(), value.chars().collect());
    let (mut at, mut from) = (0, 0);
    // Where to go on after the last `*`, should what follows it not fit.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(at) {
            Some('*') => {
                star = Some((at + 1, from));
                at += 1;
                continue;
            }
            None if from == value.len() => return true,
            None => None,
            Some(_) if from == value.len() => None,
            Some('?') => Some(1),
            Some('[') => match class(&pattern[at..], value[from]) {
                Some((matched, length)) => matched.then_some(length),
                None => (value[from] == '[').then_some(1),
            },
            Some(letter) => (*letter == value[from]).then_some(1),
        };
        match (step, star) {
            (Some(length), _) => {
                at += length;
                from += 1;
            }
            (None, Some((after, began))) if began < value.len() => {
                star = Some((after, began + 1));
                (at, from) = (after, began + 1);
            }
            (None, _) => return false,
        }
    }
}

/// Whether the class at the start of `pattern` has `letter`, and the class's length; `None` for a `[` without end.
fn class(pattern: &[char], letter: char) -> Option<(bool, usize)> {
    let negated = pattern.get(1) == Some(&'!');
    let start = if negated { 2 } else { 1 };
    // A `]` right at the start is a member.
    let end = (start + 1..pattern.len()).find(|index| pattern[*index] == ']')?;
    let members = &pattern[start..end];
    let mut found = false;
    let mut index = 0;
    while index < members.len() {
        if index + 2 < members.len() && members[index + 1] == '-' {
            found |= (members[index]..=members[index + 2]).contains(&letter);
            index += 3;
        } else {
            found |= members[index] == letter;
            index += 1;
        }
    }
    Some((found != negated, end + 1))
}

/// True where `value` fits `expected`, which a leading `!` negates. A missing value fits nothing.
pub fn label_matches(expected: &str, value: Option<&str>) -> bool {
    let Some(value) = value else { return false };
    match expected.strip_prefix('!') {
        Some(negated) => !fnmatch(negated, value),
        None => fnmatch(expected, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_pythons_do() {
        for (pattern, value, fits) in [
            ("prefect.flow-run.*", "prefect.flow-run.1", true),
            ("prefect.flow-run.*", "prefect.task-run.1", false),
            ("*a*b", "xxaxxabb", true),
            ("*a*b", "xxaxxabbc", false),
            ("a?c", "abc", true),
            ("a[b-d]e", "ace", true),
            ("a[!b-d]e", "ace", false),
            ("a[]]e", "a]e", true),
            ("a[b", "a[b", true),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(fnmatch(pattern, value), fits, "{pattern} {value}");
        }
        assert!(label_matches("!a*", Some("b")));
        assert!(!label_matches("!a*", None));
    }
}
