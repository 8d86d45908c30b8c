//! What names may hold (`prefect/types/names.py`).

/// Lower-case letters, digits, dashes.
pub fn is_lowercase_dashes(name: &str) -> bool {
    name.chars().all(|letter| matches!(letter, 'a'..='z' | '0'..='9' | '-'))
}

/// Lower-case letters, digits, dashes, underscores.
pub fn is_lowercase_dashes_underscores(name: &str) -> bool {
    name.chars().all(|letter| matches!(letter, 'a'..='z' | '0'..='9' | '-' | '_'))
}

/// The first of the characters that names of flows, deployments, pools, blocks and the like may not hold.
pub fn banned_character(name: &str) -> Option<char> {
    name.chars().find(|letter| matches!(letter, '/' | '%' | '&' | '>' | '<'))
}
