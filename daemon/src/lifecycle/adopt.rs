//! Blobs that a unit has wrapped for somebody else.

use std::sync::Arc;

use keyward_proto::{Label, Use};
use keyward_unit::Header;

use super::placement::Placement;
use super::{Error, check_uses};
use crate::backend::grep11::Abilities;
use crate::backend::{Backend, BackendError};
use crate::daemon::Daemon;
use crate::keys::{Key, StoreError};

pub(crate) async fn adopt(
    daemon: &Daemon,
    label: Label,
    uses: Vec<Use>,
    sign_and_decrypt: bool,
    backend: Option<&str>,
    blob: Vec<u8>,
    public: &[u8],
) -> Result<Arc<Key>, Error> {
    let home = Placement::of(daemon, backend).await?;
    let Backend::Grep11(grep11) = home.backend else { return Err(Error::NotAdoptable) };
    if daemon.keys.get(&label).await?.is_some() {
        return Err(StoreError::Exists(label).into());
    }
    let next = daemon.keys.next_wkid(home.backend.name()).await?;
    if let (Some(wkid), Some(header)) = (home.wkid, Header::read(&blob))
        && header.wkid() != wkid
        && next != Some(header.wkid().to_string())
    {
        let backend = home.backend.name().to_owned();
        return Err(Error::OtherMasterKey { backend, blob: header.wkid(), keys: wkid });
    }
    if Header::read(&blob).is_some_and(|header| header.extractable()) {
        tracing::warn!(
            key = label.as_str(),
            "the key that is adopted can be taken out of its unit: CKA_EXTRACTABLE is true"
        );
    }
    let made = grep11.adopt(blob, public, Abilities::needed_for(&uses)).await.map_err(BackendError::from)?;
    check_uses(&uses, made.key_type, sign_and_decrypt)?;
    home.store(daemon, label, uses, &made).await
}
