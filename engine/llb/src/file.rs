//! The op that edits trees without running anything: copy, make, remove.
//!
//! Paths are plain text here; they are resolved inside the tree by whoever applies the actions.

use crate::codec::{
    Blob, Check, Checked, Each, Flag, Index, KeepMode, KeepTime, Maybe, Mode, Nested, Shown, Text,
    Uint32,
};
use crate::message::{message, one_of};
use crate::{Error, OpKind};

message! {
    /// Edits trees by a list of actions, each on an input or on what an earlier action made.
    pub struct FileOp, Refuse {
        /// The actions, in order; never empty in a valid op.
        pub actions: Vec<FileAction> = 2 => Each<Nested<FileAction>>, "actions";
    }
}

message! {
    /// One edit. Numbers below the count of the op's inputs are inputs, the next ones are the
    /// results of earlier actions: see [`ActionInput`].
    pub struct FileAction, Refuse {
        /// The tree that is edited; none is an empty one.
        pub input: Option<u32> = 1 => Shown<Index>, "input";
        /// The tree that a copy takes from; none is an empty one.
        pub secondary_input: Option<u32> = 2 => Shown<Index>, "secondaryInput";
        /// The op's output that the result becomes, if any.
        pub output: Option<u32> = 3 => Shown<Index>, "output";
    } oneof {
        /// What is done.
        pub kind: FileActionKind
    }
}

one_of! {
    /// What a [`FileAction`] does.
    pub enum FileActionKind, "Action" {
        /// Copies from the secondary input.
        Copy(FileActionCopy) = 4 => Nested<FileActionCopy>, "copy";
        /// Makes a file.
        Mkfile(FileActionMkfile) = 5 => Nested<FileActionMkfile>, "mkfile";
        /// Makes a directory.
        Mkdir(FileActionMkdir) = 6 => Nested<FileActionMkdir>, "mkdir";
        /// Removes a file or a directory.
        Rm(FileActionRm) = 7 => Nested<FileActionRm>, "rm";
        /// Makes a symbolic link.
        Symlink(FileActionSymlink) = 8 => Nested<FileActionSymlink>, "symlink";
    }
}

message! {
    /// Copies files from the secondary input into the input.
    #[derive(Default)]
    pub struct FileActionCopy, Refuse {
        /// A path inside the secondary input.
        pub src: String = 1 => Text, "src";
        /// A path inside the input.
        pub dest: String = 2 => Text, "dest";
        /// The owner of what is copied; none keeps the owners.
        pub owner: Option<Owner> = 3 => Maybe<Nested<Owner>>, "owner";
        /// The mode of what is copied; none keeps the modes.
        pub mode: Option<u32> = 4 => KeepMode, "mode";
        /// Whether `src` is followed if it is a symbolic link.
        pub follow_symlink: bool = 5 => Flag, "followSymlink";
        /// Whether a directory's contents are copied rather than the directory.
        pub dir_copy_contents: bool = 6 => Flag, "dirCopyContents";
        /// Whether a tar archive is unpacked, as `ADD` does.
        pub attempt_unpack: bool = 7 => Flag, "attemptUnpackDockerCompatibility";
        /// Whether the directories above `dest` are made.
        pub create_dest_path: bool = 8 => Flag, "createDestPath";
        /// Whether `src` is a pattern.
        pub allow_wildcard: bool = 9 => Flag, "allowWildcard";
        /// Whether a pattern may match nothing.
        pub allow_empty_wildcard: bool = 10 => Flag, "allowEmptyWildcard";
        /// Nanoseconds since 1970; none keeps the times.
        pub timestamp: Option<i64> = 11 => KeepTime, "timestamp";
        /// Only what matches one of these, if there are any.
        pub include_patterns: Vec<String> = 12 => Each<Text>, "include_patterns";
        /// Not what matches one of these.
        pub exclude_patterns: Vec<String> = 13 => Each<Text>, "exclude_patterns";
        /// Whether a file may take the place of a directory and the other way round.
        pub always_replace_existing_dest_paths: bool = 14 => Flag, "alwaysReplaceExistingDestPaths";
        /// A symbolic mode like `u=rwX,go=rX`; wins over `mode`.
        pub mode_str: String = 15 => Text, "modeStr";
        /// Paths that have to be there.
        pub required_paths: Vec<String> = 16 => Each<Text>, "required_paths";
    }
}

message! {
    /// Makes a file; its directory has to be there.
    #[derive(Default)]
    pub struct FileActionMkfile, Refuse {
        /// Where.
        pub path: String = 1 => Text, "path";
        /// Its mode.
        pub mode: u32 = 2 => Mode, "mode";
        /// Its contents.
        pub data: Vec<u8> = 3 => Blob, "data";
        /// Its owner; none is root.
        pub owner: Option<Owner> = 4 => Maybe<Nested<Owner>>, "owner";
        /// Nanoseconds since 1970; none is now.
        pub timestamp: Option<i64> = 5 => KeepTime, "timestamp";
    }
}

message! {
    /// Makes a directory; one that is there already is left as it is.
    #[derive(Default)]
    pub struct FileActionMkdir, Refuse {
        /// Where.
        pub path: String = 1 => Text, "path";
        /// Its mode.
        pub mode: u32 = 2 => Mode, "mode";
        /// Whether the directories above it are made too.
        pub make_parents: bool = 3 => Flag, "makeParents";
        /// Its owner; none is root.
        pub owner: Option<Owner> = 4 => Maybe<Nested<Owner>>, "owner";
        /// Nanoseconds since 1970; none is now.
        pub timestamp: Option<i64> = 5 => KeepTime, "timestamp";
    }
}

message! {
    /// Removes a file, a link, or a directory with all that it contains.
    #[derive(Default)]
    pub struct FileActionRm, Refuse {
        /// What; a symbolic link at its end is not followed.
        pub path: String = 1 => Text, "path";
        /// Whether there may be nothing.
        pub allow_not_found: bool = 2 => Flag, "allowNotFound";
        /// Whether `path` is a pattern.
        pub allow_wildcard: bool = 3 => Flag, "allowWildcard";
    }
}

message! {
    /// Makes a symbolic link at `newpath` whose contents are `oldpath`.
    #[derive(Default)]
    pub struct FileActionSymlink, Refuse {
        /// What the link says; not interpreted.
        pub oldpath: String = 1 => Text, "oldpath";
        /// Where the link is.
        pub newpath: String = 2 => Text, "newpath";
        /// Its owner; none is root.
        pub owner: Option<Owner> = 3 => Maybe<Nested<Owner>>, "owner";
        /// Nanoseconds since 1970; none is now.
        pub timestamp: Option<i64> = 4 => KeepTime, "timestamp";
    }
}

message! {
    /// A user and a group (`chown`).
    #[derive(Default)]
    pub struct Owner, Refuse {
        /// The user; by name, it brings its primary group with it.
        pub user: Option<UserSpec> = 1 => Maybe<Checked<UserWire, UserSpec>>, "user";
        /// The group.
        pub group: Option<UserSpec> = 2 => Maybe<Checked<UserWire, UserSpec>>, "group";
    }
}

one_of! {
    /// A user or a group, by name or by number.
    pub enum UserSpec, "User" {
        /// By its name in a tree's `/etc/passwd` or `/etc/group`.
        Name(NamedUser) = 1 => Nested<NamedUser>, "byName";
        /// By its number.
        Id(u32) = 2 => Uint32, "byId";
    }
}

message! {
    /// The name of a user or a group, and the tree that knows it.
    pub struct NamedUser, Refuse {
        /// The name.
        pub name: String = 1 => Text, "name";
        /// The tree whose `/etc/passwd` or `/etc/group` is read, numbered as in [`FileAction`];
        /// there has to be one in a valid op.
        pub input: Option<u32> = 2 => Index, "input";
    }
}

message! {
    /// A user on the wire: a message around the alternatives.
    pub(crate) struct UserWire, Refuse {
    } oneof {
        user: UserSpec
    }
}

impl Check<UserWire> for UserSpec {
    fn check(wire: UserWire) -> Result<Self, Error> {
        Ok(wire.user)
    }

    fn wire(&self) -> UserWire {
        UserWire { user: self.clone() }
    }
}

/// What a number in a [`FileAction`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActionInput {
    /// An input of the op.
    Input(u32),
    /// The result of an action of the op.
    Action(u32),
}

impl ActionInput {
    /// Resolves `index` in an op with `inputs` inputs.
    pub fn of(index: u32, inputs: usize) -> Self {
        match u32::try_from(inputs) {
            Ok(inputs) if index >= inputs => Self::Action(index - inputs),
            _ => Self::Input(index),
        }
    }
}

impl FileActionKind {
    /// The owner that the action gives to what it makes.
    pub fn owner(&self) -> Option<&Owner> {
        match self {
            Self::Copy(copy) => copy.owner.as_ref(),
            Self::Mkfile(mkfile) => mkfile.owner.as_ref(),
            Self::Mkdir(mkdir) => mkdir.owner.as_ref(),
            Self::Symlink(symlink) => symlink.owner.as_ref(),
            Self::Rm(_) => None,
        }
    }

    pub(crate) fn owner_mut(&mut self) -> Option<&mut Owner> {
        match self {
            Self::Copy(copy) => copy.owner.as_mut(),
            Self::Mkfile(mkfile) => mkfile.owner.as_mut(),
            Self::Mkdir(mkdir) => mkdir.owner.as_mut(),
            Self::Symlink(symlink) => symlink.owner.as_mut(),
            Self::Rm(_) => None,
        }
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Copy(copy) => format!("copy {} {}", copy.src, copy.dest),
            Self::Mkfile(mkfile) => format!("mkfile {}", mkfile.path),
            Self::Mkdir(mkdir) => format!("mkdir {}", mkdir.path),
            Self::Rm(rm) => format!("rm {}", rm.path),
            Self::Symlink(link) => format!("symlink {} -> {}", link.newpath, link.oldpath),
        }
    }
}

impl Owner {
    /// The names in the user and the group, as far as they are names.
    pub fn names(&self) -> impl Iterator<Item = &NamedUser> {
        [&self.user, &self.group].into_iter().filter_map(|user| match user {
            Some(UserSpec::Name(named)) => Some(named),
            _ => None,
        })
    }

    pub(crate) fn names_mut(&mut self) -> impl Iterator<Item = &mut NamedUser> {
        [&mut self.user, &mut self.group].into_iter().filter_map(|user| match user {
            Some(UserSpec::Name(named)) => Some(named),
            _ => None,
        })
    }
}

impl From<FileOp> for OpKind {
    fn from(op: FileOp) -> Self {
        Self::File(op)
    }
}
