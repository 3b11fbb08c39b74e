//! The one error type of this crate.

use cofferdam_types::Digest;

/// Says why bytes, an op or a graph were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Bytes that are not the message they should be.
    #[error("malformed {at}: {problem}")]
    Malformed {
        /// The path of field names to the place, like `op.exec.mounts[2].mountType`.
        at: String,
        /// What is wrong there.
        problem: Problem,
    },
    /// A well-formed op that asks for something that cannot be.
    #[error("invalid {kind} op: {reason}")]
    Invalid {
        /// `exec`, `file`, …
        kind: &'static str,
        /// The field, its value, and what was expected.
        reason: String,
    },
    /// An error about one op of a definition.
    #[error("op {digest}: {error}")]
    Op {
        /// The SHA-256 of the op's bytes.
        digest: Digest,
        /// What is wrong with it.
        error: Box<Error>,
    },
    /// An input that names a vertex that is not there.
    #[error("input {index} names {vertex}, which is not in the graph")]
    MissingVertex {
        /// The position in the op's list of inputs.
        index: usize,
        /// The vertex that was named.
        vertex: Digest,
    },
    /// An input that names an output that its vertex does not have.
    #[error("input {index} names output {output} of {vertex}, which has {count}")]
    MissingOutput {
        /// The position in the op's list of inputs.
        index: usize,
        /// The vertex that was named.
        vertex: Digest,
        /// The output that was named.
        output: u32,
        /// How many outputs that vertex has.
        count: u32,
    },
    /// An edge that is not in the graph that it was looked up in.
    #[error("output {output} of {vertex} is not in the graph")]
    UnknownEdge {
        /// The vertex that was named.
        vertex: Digest,
        /// The output that was named.
        output: u32,
    },
    /// Metadata that asks for a capability that no version of BuildKit declares.
    #[error("unknown capability {0:?}: the client may be newer than this engine")]
    UnknownCapability(String),
    /// A definition without a last op that says what to build.
    #[error("definition of {ops} ops has no terminal op: expected one without a body, last")]
    NoTerminal {
        /// How many ops there are.
        ops: usize,
    },
    /// The same op twice in one definition.
    #[error("op {0} is in the definition twice")]
    DuplicateOp(Digest),
    /// An op that depends on itself.
    #[error("op {0} depends on itself")]
    Cycle(Digest),
    /// More than [`limits`](crate::limits) allow.
    #[error("{what}: {size} is over the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
}

/// What is wrong with one field of a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The bytes end inside a field.
    #[error("the bytes end too early")]
    Truncated,
    /// A number of more than 64 bits.
    #[error("a number is longer than 64 bits")]
    LongVarint,
    /// Something that protobuf does not define.
    #[error("invalid field tag {0}")]
    Tag(u64),
    /// A field in another encoding than its type has.
    #[error("expected wire type {expected}, got {got}")]
    WireType {
        /// What the field's type needs.
        expected: u8,
        /// What was sent.
        got: u8,
    },
    /// A field that this engine does not know, so it cannot know what it asks for.
    #[error("unknown field number {0}")]
    UnknownField(u32),
    /// A single-valued field, or two of a group of alternatives, more than once.
    #[error("given more than once")]
    Repeated,
    /// A map with the same key twice.
    #[error("key {0:?} is given more than once")]
    DuplicateKey(String),
    /// A number that names none of the known choices.
    #[error("unknown value {0}")]
    UnknownValue(i64),
    /// A number outside its type's or its meaning's range.
    #[error("number {0} is out of range")]
    OutOfRange(i64),
    /// A string that is not UTF-8.
    #[error("not UTF-8")]
    Utf8,
    /// A string that is no digest; carries the parser's words.
    #[error("{0}")]
    Digest(String),
    /// Nothing where something is needed.
    #[error("missing")]
    Missing,
    /// Settings that do not belong to the type that they are given with.
    #[error("{0}")]
    Mismatch(&'static str),
    /// A list or map with too many members.
    #[error("more than {0} members")]
    TooMany(usize),
    /// Messages nested too deeply.
    #[error("nested too deeply")]
    TooDeep,
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Malformed { at: String::new(), problem }
    }
}

impl Error {
    /// Puts `name` in front of the path to a malformed field.
    pub(crate) fn within(self, name: &str) -> Self {
        match self {
            Self::Malformed { at, problem } if at.is_empty() || at.starts_with('[') => {
                Self::Malformed { at: format!("{name}{at}"), problem }
            }
            Self::Malformed { at, problem } => {
                Self::Malformed { at: format!("{name}.{at}"), problem }
            }
            other => other,
        }
    }

    /// Names the op that an error is about.
    pub(crate) fn of_op(self, digest: Digest) -> Self {
        Self::Op { digest, error: Box::new(self) }
    }
}

/// The start of a text from outside: enough to find it, too little to flood a log.
pub(crate) fn short(text: &str) -> &str {
    text.char_indices().nth(80).map_or(text, |(end, _)| &text[..end])
}
