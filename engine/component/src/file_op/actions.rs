//! Writes a file op of a graph as the component reads it.

use cofferdam_llb as llb;

use super::bindings::cofferdam::file_op::actions as wit;
use crate::error::Error;

/// Converts the actions of `op`, which has `inputs` inputs.
pub(super) fn to_wit(op: &llb::FileOp, inputs: usize) -> Result<Vec<wit::Action>, Error> {
    let convert = |(number, action): (usize, &llb::FileAction)| {
        let input = |index: Option<u32>| to_input(index, inputs, number);
        let kind = match &action.kind {
            llb::FileActionKind::Copy(copy) => wit::ActionKind::Copy(wit::CopyAction {
                from: input(action.secondary_input)?,
                src: copy.src.clone(),
                dest: copy.dest.clone(),
                owner: to_owner(copy.owner.as_ref(), input)?,
                mode: copy.mode,
                mode_string: copy.mode_str.clone(),
                follow_symlink: copy.follow_symlink,
                dir_copy_contents: copy.dir_copy_contents,
                attempt_unpack: copy.attempt_unpack,
                create_dest_path: copy.create_dest_path,
                allow_wildcard: copy.allow_wildcard,
                allow_empty_wildcard: copy.allow_empty_wildcard,
                timestamp: copy.timestamp,
                include_patterns: copy.include_patterns.clone(),
                exclude_patterns: copy.exclude_patterns.clone(),
                always_replace_existing: copy.always_replace_existing_dest_paths,
                required_paths: copy.required_paths.clone(),
            }),
            llb::FileActionKind::Mkfile(mkfile) => wit::ActionKind::Mkfile(wit::MkfileAction {
                path: mkfile.path.clone(),
                mode: mkfile.mode,
                data: mkfile.data.clone(),
                owner: to_owner(mkfile.owner.as_ref(), input)?,
                timestamp: mkfile.timestamp,
            }),
            llb::FileActionKind::Mkdir(mkdir) => wit::ActionKind::Mkdir(wit::MkdirAction {
                path: mkdir.path.clone(),
                mode: mkdir.mode,
                make_parents: mkdir.make_parents,
                owner: to_owner(mkdir.owner.as_ref(), input)?,
                timestamp: mkdir.timestamp,
            }),
            llb::FileActionKind::Rm(rm) => wit::ActionKind::Rm(wit::RmAction {
                path: rm.path.clone(),
                allow_not_found: rm.allow_not_found,
                allow_wildcard: rm.allow_wildcard,
            }),
            llb::FileActionKind::Symlink(link) => wit::ActionKind::Symlink(wit::SymlinkAction {
                oldpath: link.oldpath.clone(),
                newpath: link.newpath.clone(),
                owner: to_owner(link.owner.as_ref(), input)?,
                timestamp: link.timestamp,
            }),
        };
        Ok(wit::Action { input: input(action.input)?, kind, output: action.output })
    };
    op.actions.iter().enumerate().map(convert).collect()
}

fn to_input(index: Option<u32>, inputs: usize, action: usize) -> Result<wit::ActionInput, Error> {
    match index.map(|index| llb::ActionInput::of(index, inputs)) {
        None => Ok(wit::ActionInput::Scratch),
        Some(llb::ActionInput::Input(input)) => Ok(wit::ActionInput::Input(input)),
        Some(llb::ActionInput::Action(earlier)) if (earlier as usize) < action => {
            Ok(wit::ActionInput::Action(earlier))
        }
        Some(llb::ActionInput::Action(other)) => Err(Error::FileAction {
            action,
            message: format!("uses the result of action {other}, which is not an earlier one"),
            not_found: false,
        }),
    }
}

fn to_owner(
    owner: Option<&llb::Owner>,
    input: impl Fn(Option<u32>) -> Result<wit::ActionInput, Error>,
) -> Result<Option<wit::Ownership>, Error> {
    let principal = |spec: &llb::UserSpec| {
        Ok(match spec {
            llb::UserSpec::Id(id) => wit::Principal::Id(*id),
            llb::UserSpec::Name(named) => {
                wit::Principal::Name((named.name.clone(), input(named.input)?))
            }
        })
    };
    let Some(owner) = owner else { return Ok(None) };
    Ok(Some(wit::Ownership {
        user: owner.user.as_ref().map(principal).transpose()?,
        group: owner.group.as_ref().map(principal).transpose()?,
    }))
}
