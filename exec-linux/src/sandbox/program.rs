//! Finds and executes the step's program, as the step's user and in its working directory.

use std::ffi::{CString, c_char};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Access, AtFlags, CWD, FileType, OFlags, accessat, fstat, stat};

use super::paths;
use crate::emulation::{Execution, foreign_architecture};
use crate::step::Step;
use crate::user::home_of;
use crate::wire::{Failure, FailureKind};

/// What BuildKit and Docker set where an image sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How much of /etc/passwd is read; an image may have any size of it.
const PASSWD_MAX: u64 = 10 << 20;

/// A program with all that execve needs.
pub struct Program {
    name: String,
    candidates: Vec<String>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    /// Completes the environment and works out where the program may be.
    pub fn new(step: &Step, passwd: impl FnOnce() -> String) -> Self {
        let environment = environment(step, passwd);
        let path = value(&environment, "PATH").unwrap_or(DEFAULT_PATH).to_owned();
        let name = step.args[0].clone();
        let candidates = if name.contains('/') {
            vec![name.clone()]
        } else {
            // Relative entries would find programs wherever the step happens to be.
            let directories = path.split(':').filter(|directory| directory.starts_with('/'));
            directories.map(|directory| format!("{directory}/{name}")).collect()
        };
        let c_string = |text: String| CString::new(text).expect("check refuses NUL bytes");
        Self {
            name,
            candidates,
            arguments: step.args.iter().cloned().map(c_string).collect(),
            environment: environment.into_iter().map(c_string).collect(),
        }
    }

    /// Executes the program, with the step's emulator if it has one; returns only if that fails.
    pub fn exec(&self, step: &Step, emulator: Option<&OwnedFd>) -> Failure {
        let mut refused = None;
        for path in &self.candidates {
            match executable(path) {
                Ok(()) => {
                    let error = match (emulator, &step.execution) {
                        (Some(program), Execution::Emulated(emulator))
                            if foreign_architecture(path.as_ref())
                                == Some(emulator.architecture.as_str()) =>
                        {
                            self.execve_with(program, path)
                        }
                        _ => self.execve(path),
                    };
                    let errno = error.raw_os_error();
                    let doing = match errno {
                        // The file is there: it is its interpreter that is not.
                        Some(libc::ENOENT) => {
                            format!("executing `{path}`: its interpreter is missing")
                        }
                        Some(libc::ENOEXEC) => match foreign_architecture(path.as_ref()) {
                            Some(architecture) => {
                                format!("executing `{path}`, a program for {architecture}")
                            }
                            None => format!("executing `{path}`"),
                        },
                        _ => format!("executing `{path}`"),
                    };
                    return Failure { kind: FailureKind::NotExecutable, doing, errno };
                }
                Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
                    refused = refused.or(Some((path, error)));
                }
                Err(_) => {}
            }
        }
        if let Some((path, error)) = refused {
            let doing = format!("executing `{path}`");
            return Failure {
                kind: FailureKind::NotExecutable,
                doing,
                errno: error.raw_os_error(),
            };
        }
        let doing = if self.name.contains('/') {
            format!("no such file or directory: `{}`", self.name)
        } else {
            format!("executable file not found in $PATH: `{}`", self.name)
        };
        Failure { kind: FailureKind::NotFound, doing, errno: None }
    }

    fn execve(&self, path: &str) -> io::Error {
        let path = CString::new(path).expect("check refuses NUL bytes");
        let (arguments, environment) = (pointers(&self.arguments), pointers(&self.environment));
        // SAFETY: all strings are NUL-terminated and both arrays end with a null pointer; all of
        // them outlive the call.
        unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        io::Error::last_os_error()
    }

    /// Executes a program with an emulator, which is not in the step's root.
    fn execve_with(&self, emulator: &OwnedFd, path: &str) -> io::Error {
        let path = CString::new(path).expect("check refuses NUL bytes");
        // QEMU's options: the program's own name, and the end of the options.
        let mut words = vec![c"qemu".to_owned(), c"-0".to_owned(), self.arguments[0].clone()];
        words.extend([c"--".to_owned(), path]);
        words.extend_from_slice(&self.arguments[1..]);
        let (arguments, environment) = (pointers(&words), pointers(&self.environment));
        // SAFETY: as above; the path is empty, and the descriptor is open.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                emulator.as_raw_fd(),
                c"".as_ptr(),
                arguments.as_ptr(),
                environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        io::Error::last_os_error()
    }
}

/// An array of strings as execve(2) takes it.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// The step's environment with what it must have.
pub fn environment(step: &Step, passwd: impl FnOnce() -> String) -> Vec<String> {
    let mut environment = step.env.clone();
    if value(&step.env, "PATH").is_none() {
        environment.push(format!("PATH={DEFAULT_PATH}"));
    }
    if value(&step.env, "HOME").is_none() {
        let passwd = passwd();
        let home = home_of(step.user.uid, &passwd).unwrap_or("/");
        environment.push(format!("HOME={}", home.replace('\0', "")));
    }
    environment
}

/// What a variable is set to.
fn value<'a>(environment: &'a [String], name: &str) -> Option<&'a str> {
    environment.iter().rev().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
}

/// Whether the step's user can execute a file.
fn executable(path: &str) -> io::Result<()> {
    if FileType::from_raw_mode(stat(path)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    Ok(accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?)
}

/// Reads the step's /etc/passwd, if it is a regular file; nothing otherwise.
pub fn read_passwd(root: impl AsFd) -> String {
    let read = || -> io::Result<String> {
        // A FIFO must not block.
        let file = paths::open(root, "/etc/passwd", OFlags::RDONLY | OFlags::NONBLOCK)?;
        let mut bytes = Vec::new();
        if FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile {
            File::from(file).take(PASSWD_MAX).read_to_end(&mut bytes)?;
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}
