//! An order, from the account to the chain (RFC 8555, 7). Each step reads where the order is, so an
//! order goes on after any interruption.

use core::time::Duration;

use keyward_plans::{Acme, Client, ClientError, Issuer, Report, Task};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::challenge::Answered;
use super::failure::Failure;
use super::server::Server;

/// Brings an order to its end: the daemon has the new chain then. Without an account, only makes
/// the account.
///
/// # Errors
/// [`Failure`] of the authority, the daemon or a program. The order goes on at the next attempt.
pub(crate) async fn advance(daemon: &Client, task: &Task, acme: &Acme) -> Result<Done, Failure> {
    let mut server = Server::open(daemon, &task.plan, acme).await?;
    if acme.account.is_none() {
        // The next look has the thumbprint of the account key, which this step has made.
        open_account(daemon, task, &mut server).await?;
        return Ok(Done::Account);
    }
    let done = match carry_out(daemon, task, acme, &mut server, acme.order.clone()).await {
        // The order of an earlier attempt is of no use any more.
        Err(failure) if failure.kind == STALE => {
            tell(daemon, task, &Report::Order(None)).await?;
            carry_out(daemon, task, acme, &mut server, None).await
        }
        // The account is gone, as at a test server that was restarted, and its orders with it.
        Err(failure) if failure.kind == "accountDoesNotExist" => {
            tell(daemon, task, &Report::Order(None)).await?;
            tell(daemon, task, &Report::Account(None)).await?;
            open_account(daemon, task, &mut server).await?;
            carry_out(daemon, task, acme, &mut server, None).await
        }
        done => done,
    };
    if let Err(failure) = &done
        && ENDED.contains(&failure.kind.as_str())
    {
        // The next attempt makes another order.
        tell(daemon, task, &Report::Order(None)).await?;
    }
    done.map(|()| Done::Certificate)
}

async fn carry_out(
    daemon: &Client,
    task: &Task,
    acme: &Acme,
    server: &mut Server<'_>,
    order: Option<String>,
) -> Result<(), Failure> {
    let Some(order) = order else {
        let order = make_order(daemon, task, server).await?;
        return follow(daemon, task, acme, server, &order).await;
    };
    // It may have expired, or failed in the attempt before, or be one of an account of before.
    let stale = |reason: String| Failure::new(STALE, reason);
    match server.read(&order).await {
        Ok((found, _)) if found["status"] == "invalid" => Err(stale(format!("{order} is invalid"))),
        Err(failure) if NO_ORDER.contains(&failure.kind.as_str()) => Err(stale(failure.detail)),
        Err(failure) => Err(failure),
        Ok(_) => follow(daemon, task, acme, server, &order).await,
    }
}

/// How far an attempt has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Done {
    /// There is an account at the authority now.
    Account,
    /// The daemon has the new certificate.
    Certificate,
}

/// Has the certificate of a plan revoked, as a person asked.
pub(crate) async fn revoke(daemon: &Client, task: &Task, acme: &Acme) -> Result<(), Failure> {
    let mut server = Server::open(daemon, &task.plan, acme).await?;
    if acme.account.is_none() {
        open_account(daemon, task, &mut server).await?;
    }
    let url = server.needed("revokeCert")?;
    let mut answer = server.send("revoke", &url).await;
    // The account is gone, as at a test server that was restarted.
    if answer.as_ref().is_err_and(|failure| failure.kind == "accountDoesNotExist") {
        tell(daemon, task, &Report::Account(None)).await?;
        open_account(daemon, task, &mut server).await?;
        answer = server.send("revoke", &url).await;
    }
    match answer {
        Ok(_) => {}
        Err(failure) if failure.kind == "alreadyRevoked" => {}
        Err(failure) => return Err(failure),
    }
    tell(daemon, task, &Report::Revoked).await
}

/// Brings the certificate of an order to the daemon, which has it revoked, and attaches it nowhere.
pub(crate) async fn bring_former(
    daemon: &Client,
    task: &Task,
    acme: &Acme,
    order: &str,
) -> Result<(), Failure> {
    let mut server = Server::open(daemon, &task.plan, acme).await?;
    let (found, _) = server.read(order).await?;
    let missing = || Failure::new("order", format!("{order} has no certificate: {}", found["status"]));
    let url = found["certificate"].as_str().ok_or_else(missing)?;
    let chain = server.send("read", url).await?.body.to_vec();
    match daemon.send::<Value>(&format!("/v1/plans/{}/chain", task.plan), chain).await {
        // In this way the daemon says that it has noted the certificate.
        Ok(_) | Err(ClientError::Refused(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn open_account(daemon: &Client, task: &Task, server: &mut Server<'_>) -> Result<(), Failure> {
    let url = server.needed("newAccount")?;
    let answer = server.send("new-account", &url).await?;
    let missing = || Failure::new("authority", format!("{url} did not say where the account is"));
    let account = answer.location.ok_or_else(missing)?;
    tell(daemon, task, &Report::Account(Some(account))).await
}

async fn make_order(daemon: &Client, task: &Task, server: &mut Server<'_>) -> Result<String, Failure> {
    let url = server.needed("newOrder")?;
    let answer = match server.send("new-order", &url).await {
        // The daemon names no certificate to replace then.
        Err(failure) if failure.kind == "alreadyReplaced" => {
            tell(daemon, task, &Report::Replaced).await?;
            server.send("new-order", &url).await?
        }
        answer => answer?,
    };
    let order: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    check_names(task, &order)?;
    let missing = || Failure::new("authority", format!("{url} did not say where the order is"));
    let order = answer.location.ok_or_else(missing)?;
    tell(daemon, task, &Report::Order(Some(order.clone()))).await?;
    Ok(order)
}

/// Some servers change the names of an order.
fn check_names(task: &Task, order: &Value) -> Result<(), Failure> {
    let has = |value: &str| {
        let named = order["identifiers"].as_array().into_iter().flatten();
        named.filter_map(|one| one["value"].as_str()).any(|one| one.eq_ignore_ascii_case(value))
    };
    match task.names.iter().find(|name| !has(&name.value)) {
        Some(name) => {
            Err(Failure::new("names", format!("the order of the authority lacks the name {}", name.value)))
        }
        None => Ok(()),
    }
}

async fn follow(
    daemon: &Client,
    task: &Task,
    acme: &Acme,
    server: &mut Server<'_>,
    url: &str,
) -> Result<(), Failure> {
    let deadline = Instant::now() + LONGEST;
    let mut has_finalized = false;
    loop {
        let (order, retry_after) = server.read(url).await?;
        match order["status"].as_str().unwrap_or_default() {
            "pending" => authorise(task, acme, server, &order, deadline).await?,
            "ready" if !has_finalized => {
                let missing = || Failure::new("authority", format!("{url} has no finalize"));
                let finalize = order["finalize"].as_str().ok_or_else(missing)?;
                match server.send("finalize", finalize).await {
                    // The order has gone on meanwhile.
                    Err(failure) if failure.kind == "orderNotReady" => {}
                    answer => drop(answer?),
                }
                has_finalized = true;
            }
            "ready" | "processing" => {}
            "valid" => {
                let missing = || Failure::new("authority", format!("{url} has no certificate"));
                let certificate = order["certificate"].as_str().ok_or_else(missing)?;
                return fetch(daemon, task, server, certificate).await;
            }
            other => {
                let failure = Failure::of_problem(&order["error"], &format!("the order became {other:?}"));
                let kind = if failure.kind == "authority" { "order".into() } else { failure.kind };
                tell(daemon, task, &Report::Order(None)).await?;
                return Err(Failure { kind, ..failure });
            }
        }
        pause(deadline, retry_after, "the order").await?;
    }
}

/// Validates the names of an order.
async fn authorise(
    task: &Task,
    acme: &Acme,
    server: &mut Server<'_>,
    order: &Value,
    deadline: Instant,
) -> Result<(), Failure> {
    let urls: Vec<_> = order["authorizations"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        // One for each name (RFC 8555, 7.1.3).
        .take(task.names.len())
        .collect();
    for url in urls {
        if Instant::now() > deadline {
            return Err(slow("the order"));
        }
        let (mut authorization, _) = server.read(&url).await?;
        if authorization["status"] != "pending" {
            continue;
        }
        let name = named(task, &authorization["identifier"])?;
        let wanted = if acme.challenge.is_dns() { "dns-01" } else { "http-01" };
        let challenges = authorization["challenges"].as_array().into_iter().flatten();
        let challenge = challenges.filter(|one| one["type"] == wanted).find_map(|one| {
            let token = one["token"].as_str().filter(|token| is_token(token))?;
            Some((one["url"].as_str()?.to_owned(), token.to_owned()))
        });
        let missing =
            || Failure::new("unsupportedIdentifier", format!("the authority offers no {wanted} for {name}"));
        let (answer_at, token) = challenge.ok_or_else(missing)?;
        let thumbprint = acme.thumbprint.as_deref().unwrap_or_default();
        let answered = Answered::put(&task.plan, &acme.challenge, &name, &token, thumbprint).await?;
        let validated = async {
            drop(server.send("answer", &answer_at).await?);
            loop {
                let retry_after;
                (authorization, retry_after) = server.read(&url).await?;
                match authorization["status"].as_str().unwrap_or_default() {
                    "pending" | "processing" => pause(deadline, retry_after, &name).await?,
                    "valid" => return Ok(()),
                    other => {
                        let challenges = authorization["challenges"].as_array().into_iter().flatten();
                        let error = challenges.map(|one| &one["error"]).find(|error| error.is_object());
                        let instead = format!("the authority did not validate {name}: {other}");
                        return Err(Failure::of_problem(error.unwrap_or(&Value::Null), &instead));
                    }
                }
            }
        }
        .await;
        answered.remove().await;
        validated?;
    }
    Ok(())
}

/// The name of the plan that an authorisation is for, without a star (RFC 8555, 7.1.4). The text of
/// the plan goes to programs and zones, not that of the authority.
fn named(task: &Task, identifier: &Value) -> Result<String, Failure> {
    let is_it =
        |value: &str| identifier["value"].as_str().is_some_and(|given| given.eq_ignore_ascii_case(value));
    let names = task.names.iter().filter(|name| identifier["type"] == name.kind.as_str());
    let mut names = names.map(|name| name.value.strip_prefix("*.").unwrap_or(&name.value));
    let name = names.find(|value| is_it(value));
    let other =
        || Failure::new("names", "the authority wants to validate a name that the plan does not have");
    name.map(str::to_owned).ok_or_else(other)
}

/// Brings the chain to the daemon: the first one of the authority that the daemon accepts. If the
/// owner prefers a chain that the authority does not have, the first one is accepted at the end.
async fn fetch(daemon: &Client, task: &Task, server: &mut Server<'_>, url: &str) -> Result<(), Failure> {
    let first = server.send("read", url).await?;
    let path = format!("/v1/plans/{}/chain", task.plan);
    let mut done = daemon.send::<Value>(&path, first.body.to_vec()).await;
    for other in first.alternates {
        if done.is_ok() {
            break;
        }
        let answer = server.send("read", &other).await?;
        done = daemon.send::<Value>(&path, answer.body.to_vec()).await;
    }
    if matches!(done, Err(ClientError::Refused(_))) {
        done = daemon.send::<Value>(&format!("{path}?preferred=false"), first.body.to_vec()).await;
    }
    match done {
        Ok(_) => Ok(()),
        Err(error @ ClientError::Refused(_)) => Err(Failure::new("chain", error)),
        Err(error) => Err(error.into()),
    }
}

/// A token is base64url (RFC 8555, 8.1), and becomes the name of a file.
fn is_token(token: &str) -> bool {
    let is_of_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=256).contains(&token.len()) && token.bytes().all(is_of_alphabet)
}

/// Waits between two looks.
async fn pause(deadline: Instant, retry_after: Option<u64>, what: &str) -> Result<(), Failure> {
    let pause = retry_after.map_or(LOOK, |seconds| Duration::from_secs(seconds.clamp(1, 60)));
    if Instant::now() + pause > deadline {
        return Err(slow(what));
    }
    sleep(pause).await;
    Ok(())
}

fn slow(what: &str) -> Failure {
    let minutes = LONGEST.as_secs() / 60;
    Failure::new("slow", format!("{what} was not ready within {minutes} minutes"))
}

/// Tells the daemon that work begins. The daemon says which order goes on: a wish of a person since
/// may have made the one in the task useless.
pub(crate) async fn begin(daemon: &Client, task: &mut Task) -> Result<(), Failure> {
    let path = format!("/v1/plans/{}/report", task.plan);
    let answer: Value = daemon.post(&path, &Report::Begin).await?;
    if let Issuer::Acme(acme) = &mut task.issuer {
        acme.order = answer["order"].as_str().map(str::to_owned);
    }
    Ok(())
}

/// Tells the daemon.
pub(crate) async fn tell(daemon: &Client, task: &Task, report: &Report) -> Result<(), Failure> {
    drop(daemon.post::<Value>(&format!("/v1/plans/{}/report", task.plan), report).await?);
    Ok(())
}

/// Failures that say that there is no such order of this account (RFC 8555, 6.7). Any other failure
/// says nothing about the order.
const NO_ORDER: [&str; 3] = [super::failure::GONE, "malformed", "unauthorized"];
/// Kind of a failure: the order of an earlier attempt is of no use.
const STALE: &str = "stale";
/// Failures after which the order is of no use.
const ENDED: [&str; 4] = ["order", "chain", "names", "badCSR"];
/// Time between two looks if the authority does not say it.
const LOOK: Duration = Duration::from_millis(500);
/// Longest time for an order in one attempt.
const LONGEST: Duration = Duration::from_secs(600);
