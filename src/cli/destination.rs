//! Where a download goes: a regular file changes as a whole or not at all, what is none is written into.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// The bytes' way to where the user wants them.
#[derive(Debug)]
pub enum Destination {
    /// A pipe, a device or an open file: it gets the bytes as they come.
    Stream(File),
    /// A name that has the new bytes once all of them are there.
    Name(Replacement),
}

/// A file under a hidden name of its own, until it takes the name that it is meant for. Removed when it never does.
#[derive(Debug)]
pub struct Replacement {
    file: File,
    hidden: PathBuf,
    name: PathBuf,
    kept: bool,
}

impl Destination {
    /// Opens what the path leads to; a file that is there keeps its bytes until [`Destination::keep`].
    pub fn open(path: &Path) -> io::Result<Self> {
        let there = match fs::metadata(path) {
            Ok(there) => Some(there),
            Err(missing) if missing.kind() == ErrorKind::NotFound => None,
            Err(other) => return Err(other),
        };
        let name = end_of_links(path);
        match there {
            Some(there) if there.is_dir() => Err(ErrorKind::IsADirectory.into()),
            // /dev/stdout may be a regular file that others write to as well: it is added to, never replaced.
            Some(there) if !there.is_file() || is_open_already(&name) => {
                Ok(Self::Stream(OpenOptions::new().append(true).open(path)?))
            }
            Some(there) => Replacement::of(name, Some(there.permissions())).map(Self::Name),
            None => Replacement::of(name, None).map(Self::Name),
        }
    }

    /// All bytes are there and they are the right ones.
    pub fn keep(self) -> io::Result<()> {
        match self {
            Self::Stream(_) => Ok(()),
            Self::Name(mut replacement) => {
                fs::rename(&replacement.hidden, &replacement.name)?;
                replacement.kept = true;
                Ok(())
            }
        }
    }

    fn file(&mut self) -> &mut File {
        match self {
            Self::Stream(file) | Self::Name(Replacement { file, .. }) => file,
        }
    }
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

impl Replacement {
    /// A new file beside the name; it has the permissions before it has a byte.
    fn of(name: PathBuf, permissions: Option<fs::Permissions>) -> io::Result<Self> {
        let hidden = name.with_file_name(format!(".slctl-{}.part", Uuid::now_v7()));
        let file = File::create_new(&hidden)?;
        let replacement = Self { file, hidden, name, kept: false };
        if let Some(permissions) = permissions {
            replacement.file.set_permissions(permissions)?;
        }
        Ok(replacement)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.kept {
            // What is left is of no use; that it can't be removed is less of a problem than the fault that led here.
            let _ = fs::remove_file(&self.hidden);
        }
    }
}

/// Whether this names what a process has open, as /dev/stdout does, and not a place in a directory.
fn is_open_already(name: &Path) -> bool {
    name.starts_with("/proc") || name.starts_with("/dev/fd")
}

/// The name behind all symbolic links, also when nothing has it yet.
fn end_of_links(path: &Path) -> PathBuf {
    let mut name = path.to_owned();
    // The kernel follows no more either; a ring of links was refused before.
    for _ in 0..40 {
        match fs::read_link(&name) {
            Ok(to) if !is_open_already(&name) => name = name.parent().unwrap_or(Path::new("")).join(to),
            Ok(_) | Err(_) => break,
        }
    }
    name
}
