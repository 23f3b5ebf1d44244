//! PTX text to tokens.

/// What is wrong with a module, and in which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    pub line: u32,
    pub what: String,
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

pub fn fail<T>(line: u32, what: impl Into<String>) -> Result<T, LoadError> {
    Err(LoadError { line, what: what.into() })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// Opcodes, directives, registers, labels, symbols: letters, digits and any of `. _ $ %`, and `::`.
    Word(&'a str),
    /// A number as it is written, without its sign.
    Number(&'a str),
    Text(&'a str),
    Mark(u8),
}

#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub token: Token<'a>,
    pub line: u32,
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'$' | b'%')
}

/// Tokens of a module; comments are left out.
pub fn tokens(text: &str) -> Result<Vec<Place<'_>>, LoadError> {
    let bytes = text.as_bytes();
    let at = |i: usize| bytes.get(i).copied().unwrap_or(0);
    let mut out = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < bytes.len() {
        let c = at(i);
        let begin = i;
        match c {
            b'\n' => {
                line += 1;
                i += 1;
            }
            b' ' | b'\t' | b'\r' | 0 => i += 1,
            b'/' if at(i + 1) == b'/' => {
                while i < bytes.len() && at(i) != b'\n' {
                    i += 1;
                }
            }
            b'/' if at(i + 1) == b'*' => {
                let first = line;
                i += 2;
                while !(at(i) == b'*' && at(i + 1) == b'/') {
                    if i >= bytes.len() {
                        return fail(first, "a comment does not end");
                    }
                    line += u32::from(at(i) == b'\n');
                    i += 1;
                }
                i += 2;
            }
            b'"' => {
                i += 1;
                while i < bytes.len() && at(i) != b'"' && at(i) != b'\n' {
                    i += 1;
                }
                if at(i) != b'"' {
                    return fail(line, "a string does not end");
                }
                out.push(Place { token: Token::Text(&text[begin + 1..i]), line });
                i += 1;
            }
            _ if c.is_ascii_digit() => {
                while is_word(at(i)) {
                    i += 1;
                }
                out.push(Place { token: Token::Number(&text[begin..i]), line });
            }
            _ if is_word(c) => {
                while is_word(at(i)) || (at(i) == b':' && at(i + 1) == b':') {
                    i += if at(i) == b':' { 2 } else { 1 };
                }
                out.push(Place { token: Token::Word(&text[begin..i]), line });
            }
            b'(' | b')' | b'[' | b']' | b'{' | b'}' | b'<' | b'>' | b',' | b';' | b':' | b'+' | b'-' | b'|' | b'!'
            | b'@' | b'=' => {
                out.push(Place { token: Token::Mark(c), line });
                i += 1;
            }
            _ => return fail(line, format!("the character {:?} does not belong in PTX", c as char)),
        }
    }
    Ok(out)
}

/// A literal: integers in any base, `0f` and `0d` floating-point bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Literal {
    Int(i128),
    F32(u32),
    F64(u64),
}

pub fn literal(text: &str, negative: bool) -> Option<Literal> {
    let lower = text.to_ascii_lowercase();
    if let Some(hex) = lower.strip_prefix("0f").filter(|h| h.len() == 8) {
        let bits = u32::from_str_radix(hex, 16).ok()?;
        return Some(Literal::F32(if negative { bits ^ 1 << 31 } else { bits }));
    }
    if let Some(hex) = lower.strip_prefix("0d").filter(|h| h.len() == 16) {
        let bits = u64::from_str_radix(hex, 16).ok()?;
        return Some(Literal::F64(if negative { bits ^ 1 << 63 } else { bits }));
    }
    let digits = lower.strip_suffix('u').unwrap_or(&lower);
    let value = if let Some(hex) = digits.strip_prefix("0x") {
        i128::from(u64::from_str_radix(hex, 16).ok()?)
    } else if let Some(binary) = digits.strip_prefix("0b") {
        i128::from(u64::from_str_radix(binary, 2).ok()?)
    } else if digits.contains('.') {
        let value: f64 = digits.parse().ok()?;
        return Some(Literal::F64((if negative { -value } else { value }).to_bits()));
    } else if digits.len() > 1 && digits.starts_with('0') {
        i128::from(u64::from_str_radix(digits, 8).ok()?)
    } else {
        i128::from(digits.parse::<u64>().ok()?)
    };
    Some(Literal::Int(if negative { -value } else { value }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_base() {
        assert_eq!(literal("0x10", false), Some(Literal::Int(16)));
        assert_eq!(literal("017", false), Some(Literal::Int(15)));
        assert_eq!(literal("12U", true), Some(Literal::Int(-12)));
        assert_eq!(literal("0f3F800000", true), Some(Literal::F32(0xbf80_0000)));
        assert_eq!(literal("0d3FF0000000000000", false), Some(Literal::F64(1f64.to_bits())));
        assert_eq!(literal("0f3F8", false), None);
        assert_eq!(literal("99999999999999999999", false), None);
    }

    #[test]
    fn tokens_know_their_line() {
        let found = tokens("a // b\n/* c\n */ ld.L1::x [%r1+-4];").unwrap();
        let words: Vec<_> = found.iter().map(|p| (p.token, p.line)).collect();
        assert_eq!(words[0], (Token::Word("a"), 1));
        assert_eq!(words[1], (Token::Word("ld.L1::x"), 3));
        assert_eq!(words.len(), 9);
        assert!(tokens("\n#").is_err_and(|e| e.line == 2));
    }
}
