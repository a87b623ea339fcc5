//! The archive: a tar in gzip that only its owner may read, never over a file that is there.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::kubectl::fault::Fault;

/// Opens the file that the archive becomes.
pub fn create(path: &Path) -> Result<File, Fault> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Fault::Usage(format!("{} is there already; move it, or choose another name by --output", path.display()))
        }
        _ => Fault::Usage(format!("cannot write {}: {error}; choose another place by --output", path.display())),
    })
}

/// Writes the files below one folder; returns the size.
pub fn write(target: File, folder: &str, files: &BTreeMap<String, String>) -> Result<u64, Fault> {
    packed(target, folder, files).map_err(Fault::Output)
}

fn packed(target: File, folder: &str, files: &BTreeMap<String, String>) -> io::Result<u64> {
    let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
    let mut archive = tar::Builder::new(GzEncoder::new(target, Compression::default()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now);
        archive.append_data(&mut header, format!("{folder}/{name}"), text.as_bytes())?;
    }
    let mut file = archive.into_inner()?.finish()?;
    file.flush()?;
    Ok(file.metadata()?.len())
}
