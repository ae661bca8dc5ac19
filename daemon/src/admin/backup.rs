//! Copies of the key store for administrators.

use std::io::{self, Read, Seek};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use zeroize::Zeroizing;

use super::parse::Document;
use super::{Admin, AdminError, Administrator, Answer};
use crate::admin::api::KEYS_IN_BACKUP;
use crate::admin::purge_view::{RecoveryNote, RecoveryView};
use crate::keys::CopyFile;
use crate::lifecycle;

/// Answers with a copy of the key store as it is now.
pub(super) async fn make(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
) -> Result<Response, AdminError> {
    let (file, count) = lifecycle::backup(&admin.daemon, actor).await?;
    let (sender, receiver) = mpsc::channel(2);
    // Ends at the end of the file, or when the client closes the connection.
    drop(tokio::task::spawn_blocking(move || send(file, &sender)));
    let count = [(HeaderName::from_static(KEYS_IN_BACKUP), count.to_string())];
    Ok((count, Body::from_stream(ReceiverStream::new(receiver))).into_response())
}

/// Answers with the text of a recovery file: the secrets that wrap the blobs of the key store.
pub(super) async fn recovery(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
) -> Result<Response, AdminError> {
    let recovery = lifecycle::recovery(&admin.daemon, actor).await?;
    let text = Bytes::from_owner(Text(recovery.to_text()));
    // The buffer of the connection holds the secrets until the connection is closed.
    Ok(([(CONTENT_TYPE, "text/plain"), (CONNECTION, "close")], text).into_response())
}

/// Notes that a client has written a recovery file.
pub(super) async fn note_recovery(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    Document(note): Document<RecoveryNote>,
) -> Answer<Option<RecoveryView>> {
    let secret = note.secret.parse();
    let secret = secret.map_err(|()| {
        AdminError::Invalid(format!("{:?} is not the number and the id of a secret", note.secret))
    })?;
    lifecycle::note_recovery(&admin.daemon, actor, secret, note.has_old).await?;
    Ok(Json(RecoveryView::of(&admin.daemon.keys.shred().await?)))
}

/// A text that is wiped after it was sent.
struct Text(Zeroizing<String>);

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

fn send(mut file: CopyFile, sender: &mpsc::Sender<io::Result<Bytes>>) {
    let mut send = || -> io::Result<()> {
        file.rewind()?;
        loop {
            let mut part = vec![0; PART];
            let length = file.read(&mut part)?;
            part.truncate(length);
            if length == 0 || sender.blocking_send(Ok(part.into())).is_err() {
                return Ok(());
            }
        }
    };
    if let Err(error) = send() {
        let _ = sender.blocking_send(Err(error));
    }
}

/// Bytes that are sent at a time (64 KiB).
const PART: usize = 64 * 1024;
