//! The server of an authority: its directory, its nonces, and messages that the daemon has signed.

use keyward_plans::{Acme, Client, Message, Report};
use serde_json::Value;

use super::failure::Failure;
use super::http::{Answer, Http, now};

/// The server of an authority, for one plan.
pub(crate) struct Server<'c> {
    pub(crate) http: Http,
    daemon: &'c Client,
    plan: String,
    directory: Value,
    nonce: Option<String>,
}

impl<'c> Server<'c> {
    /// Reads the directory of an authority.
    ///
    /// # Errors
    /// The server does not answer, or not with a directory.
    pub(crate) async fn open(daemon: &'c Client, plan: &str, acme: &Acme) -> Result<Self, Failure> {
        let http = Http::new(&acme.directory, acme.root.as_deref())?;
        let answer = http.get(&acme.directory).await?;
        if answer.status != 200 {
            return Err(Failure::of_answer(&answer, &acme.directory));
        }
        tell_clock(daemon, plan, &answer).await?;
        let directory = serde_json::from_slice(&answer.body).map_err(|error| {
            Failure::new("directory", format!("{} is no directory: {error}", acme.directory))
        })?;
        Ok(Self { http, daemon, plan: plan.to_owned(), directory, nonce: None })
    }

    /// A URL of the directory; `None` if the authority has no such resource.
    pub(crate) fn url(&self, resource: &str) -> Option<&str> {
        self.directory[resource].as_str()
    }

    /// A URL of the directory that every authority has.
    pub(crate) fn needed(&self, resource: &str) -> Result<String, Failure> {
        let missing =
            || Failure::new("directory", format!("the directory of the authority has no {resource}"));
        self.url(resource).map(str::to_owned).ok_or_else(missing)
    }

    /// Has the daemon sign the message of a step, and posts it. A nonce that the authority does not
    /// take is replaced a few times (RFC 8555, 6.5).
    ///
    /// # Errors
    /// The daemon refuses the step, or the authority answers with an error.
    pub(crate) async fn send(&mut self, step: &str, url: &str) -> Result<Answer, Failure> {
        let mut attempt = 0;
        loop {
            let nonce = match self.nonce.take() {
                Some(nonce) => nonce,
                None => self.new_nonce().await?,
            };
            let wanted = Message { step: step.to_owned(), url: url.to_owned(), nonce };
            let message: Value =
                self.daemon.post(&format!("/v1/plans/{}/message", self.plan), &wanted).await?;
            let answer = self.http.post(url, message.to_string().into_bytes()).await?;
            self.nonce.clone_from(&answer.nonce);
            if answer.status < 300 {
                return Ok(answer);
            }
            let failure = Failure::of_message(&answer, url);
            attempt += 1;
            if failure.kind != "badNonce" || attempt >= NONCES {
                return Err(failure);
            }
        }
    }

    /// Reads a resource as JSON.
    pub(crate) async fn read(&mut self, url: &str) -> Result<(Value, Option<u64>), Failure> {
        let answer = self.send("read", url).await?;
        let value = serde_json::from_slice(&answer.body);
        let value = value
            .map_err(|error| Failure::new("authority", format!("{url} did not answer in JSON: {error}")))?;
        Ok((value, answer.retry_after))
    }

    async fn new_nonce(&self) -> Result<String, Failure> {
        let url = self.needed("newNonce")?;
        let answer = self.http.head(&url).await?;
        if answer.status >= 300 {
            return Err(Failure::of_answer(&answer, &url));
        }
        let none = || Failure::new("authority", format!("{url} gave no nonce"));
        answer.nonce.ok_or_else(none)
    }
}

/// Tells the daemon how far the clock of this host is from that of the authority: with a wrong
/// clock certificates seem not to be valid.
pub(crate) async fn tell_clock(daemon: &Client, plan: &str, answer: &Answer) -> Result<(), Failure> {
    let Some(date) = answer.date else { return Ok(()) };
    let ahead = now().cast_signed().saturating_sub(date.cast_signed());
    let told = daemon.post::<Value>(&format!("/v1/plans/{plan}/report"), &Report::Clock(ahead)).await;
    Ok(told.map(drop)?)
}

/// Most nonces for one message. pebble refuses half of them in a test.
const NONCES: u32 = 20;
