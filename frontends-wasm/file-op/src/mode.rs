//! New permission bits: octal digits, or clauses in the symbolic form of chmod(1).

use crate::error::Error;

/// All bits that chmod(2) can set.
pub(crate) const ALL: u32 = 0o7777;

/// How permission bits change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ModeChange {
    /// They stay.
    Keep,
    /// They become these.
    Set(u32),
    /// They go through these steps, one after the other.
    Steps(Vec<Step>),
}

/// One operation of a clause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// The bits of the classes that the clause is for.
    who: u32,
    operator: char,
    /// Bits, repeated for each class.
    bits: u32,
    /// `X`: execute, for directories and what somebody can execute.
    execute_if: bool,
    /// Class whose bits are taken: 6, 3 or 0, the place of its lowest bit.
    from: Option<u32>,
}

impl ModeChange {
    /// Reads what a copy says; the symbolic form goes before the number.
    ///
    /// # Errors
    /// When the text is neither octal nor symbolic.
    pub(crate) fn new(text: &str, number: Option<u32>) -> Result<Self, Error> {
        match (text, number) {
            ("", None) => Ok(Self::Keep),
            ("", Some(mode)) => Ok(Self::Set(mode & ALL)),
            _ => parse(text).ok_or_else(|| Error::Mode(text.to_owned())),
        }
    }

    /// The new bits of a file or directory that has the bits `mode`.
    pub(crate) fn apply(&self, mode: u32, directory: bool) -> u32 {
        match self {
            Self::Keep => mode,
            Self::Set(new) => *new,
            Self::Steps(steps) => steps.iter().fold(mode, |mode, step| step.apply(mode, directory)),
        }
    }
}

impl Step {
    fn apply(&self, mode: u32, directory: bool) -> u32 {
        let mut bits = self.bits;
        if self.execute_if && (directory || mode & 0o111 != 0) {
            bits |= 0o111;
        }
        if let Some(place) = self.from {
            bits |= ((mode >> place) & 7) * 0o111;
        }
        bits &= self.who;
        match self.operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => mode & !self.who | bits,
        }
    }
}

fn parse(text: &str) -> Option<ModeChange> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let mode = u32::from_str_radix(text, 8).ok()?;
        return (mode <= ALL).then_some(ModeChange::Set(mode));
    }
    let mut steps = Vec::new();
    for clause in text.split(',') {
        let mut rest = clause.chars().peekable();
        let mut who = 0;
        while let Some(class) = rest.next_if(|c| "ugoa".contains(*c)) {
            // The set-id bits belong to user and group, the sticky bit to the others.
            who |= match class {
                'u' => 0o4700,
                'g' => 0o2070,
                'o' => 0o1007,
                _ => ALL,
            };
        }
        if who == 0 {
            // chmod(1) would ask the umask, which is 0 in a file op.
            who = ALL;
        }
        rest.peek()?;
        while let Some(operator) = rest.next() {
            if !"+-=".contains(operator) {
                return None;
            }
            let mut step = Step { who, operator, bits: 0, execute_if: false, from: None };
            if let Some(class) = rest.next_if(|c| "ugo".contains(*c)) {
                step.from = Some(match class {
                    'u' => 6,
                    'g' => 3,
                    _ => 0,
                });
            } else {
                while let Some(letter) = rest.next_if(|c| "rwxXst".contains(*c)) {
                    match letter {
                        'r' => step.bits |= 0o444,
                        'w' => step.bits |= 0o222,
                        'x' => step.bits |= 0o111,
                        'X' => step.execute_if = true,
                        's' => step.bits |= 0o6000,
                        _ => step.bits |= 0o1000,
                    }
                }
            }
            steps.push(step);
        }
    }
    Some(ModeChange::Steps(steps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_bits_as_chmod_does() {
        for (text, mode, directory, expected) in [
            ("755", 0o600, false, 0o755),
            ("04755", 0o600, false, 0o4755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("a-w", 0o777, false, 0o555),
            ("go=", 0o777, false, 0o700),
            ("u+s,g+s,+t", 0o755, false, 0o7755),
            ("u-s", 0o4755, false, 0o755),
            ("o+s", 0o755, false, 0o755),
            ("g=u", 0o750, false, 0o770),
            ("o=g,u-x", 0o750, false, 0o655),
            ("u+x-w", 0o600, false, 0o500),
            ("a=rX", 0o711, false, 0o555),
            ("ug+rw,o-rwx", 0o007, false, 0o660),
        ] {
            let change = ModeChange::new(text, Some(0o123)).unwrap();
            let found = change.apply(mode, directory);
            assert_eq!(found, expected, "{text} on {mode:o}: {found:o}");
        }
        assert_eq!(ModeChange::new("", Some(0o104_755)).unwrap().apply(0, false), 0o4755);
        assert_eq!(ModeChange::new("", None).unwrap().apply(0o640, false), 0o640);
    }

    #[test]
    fn malformed_modes_are_errors() {
        for text in ["8", "10000", "u", "u=q", "x", "u+r,,g+r", ",", "u=rw;", "ux", "=u r", "-1"] {
            assert!(ModeChange::new(text, None).is_err(), "{text}");
        }
    }
}
