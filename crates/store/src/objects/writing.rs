//! An object that is being written: its parts, and the bytes that wait until they are one.

use bytes::{Bytes, BytesMut};
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{MultipartId, MultipartUpload, PutPayload};

/// Bytes of every part but the last: the least that S3 takes. So much of an upload is held in memory at most.
pub(crate) const PART: usize = 5 * 1024 * 1024;
/// Bytes that are gathered in one piece of memory.
const PIECE: usize = 256 * 1024;

/// An object of several parts on its way. Dropped, it leaves nothing of a file; of a bucket, what the table of doubts knows.
pub(crate) enum Writing {
    S3 { path: Path, upload: MultipartId, parts: Vec<PartId> },
    File(Box<dyn MultipartUpload>),
}

impl Writing {
    /// The upload that has to be ended when this does not come to its end.
    pub(crate) fn upload(&self) -> Option<&str> {
        match self {
            Self::S3 { path: _, upload, parts: _ } => Some(upload),
            Self::File(_) => None,
        }
    }

    /// How many parts S3 has; it takes 10,000.
    pub(crate) fn parts(&self) -> usize {
        match self {
            Self::S3 { path: _, upload: _, parts } => parts.len(),
            Self::File(_) => 0,
        }
    }
}

/// Bytes that are gathered for the next part: copied, because what comes from a socket holds on to more than it shows.
#[derive(Default)]
pub(crate) struct Pieces {
    full: Vec<Bytes>,
    open: BytesMut,
    length: usize,
}

impl Pieces {
    /// Takes as much as there is room for, and leaves the rest.
    pub(crate) fn take(&mut self, bytes: &mut Bytes) {
        while !bytes.is_empty() && self.length < PART {
            if self.open.capacity() == self.open.len() {
                self.close();
                self.open = BytesMut::with_capacity(bytes.len().clamp(4096, PIECE).min(PART - self.length));
            }
            let room = (self.open.capacity() - self.open.len()).min(PART - self.length);
            let part = bytes.split_to(bytes.len().min(room));
            self.open.extend_from_slice(&part);
            self.length += part.len();
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.length == PART
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Everything, as it is sent; nothing is left.
    pub(crate) fn payload(&mut self) -> PutPayload {
        self.close();
        self.length = 0;
        std::mem::take(&mut self.full).into_iter().collect()
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.full.push(std::mem::take(&mut self.open).freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_a_part_is_held_and_no_byte_is_lost() {
        let all: Vec<u8> = (0..2 * PART + 17).map(|n| n.to_le_bytes()[0]).collect();
        let (mut pieces, mut seen) = (Pieces::default(), Vec::new());
        let mut send = |pieces: &mut Pieces| {
            let payload = pieces.payload();
            assert!(payload.content_length() <= PART);
            payload.iter().for_each(|piece| seen.extend_from_slice(piece));
        };
        for piece in all.chunks(70_001) {
            let mut bytes = Bytes::copy_from_slice(piece);
            while !bytes.is_empty() {
                if pieces.is_full() {
                    send(&mut pieces);
                }
                pieces.take(&mut bytes);
            }
        }
        send(&mut pieces);
        assert!(pieces.is_empty() && seen == all);
    }
}
