//! Certificates that renew themselves: for people, for the agent and for the deployer.

use std::path::PathBuf;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::header::{ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use keyward_plans::{
    Acme, Certificate, Challenge, Deployed, Files, Issuer, Message, Name, PlanView, Report, Task, Tasks,
    ToRevoke, Watched,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::parse::{Document, OfKey};
use super::{Admin, AdminError, Administrator, Answer, Body};
use crate::config::{self, Identifier};
use crate::daemon::Daemon;
use crate::ground::text::printable;
use crate::keys::certificates::Chain;
use crate::keys::{Standing, now};
use crate::lifecycle;
use crate::lifecycle::renewal::{self, Meant};
use crate::observe::renewals::{PlanLook, WatchLook};
use crate::renewal::jws::AccountKey;

/// Every plan, for people.
pub(super) async fn list(State(admin): State<Admin>, headers: HeaderMap) -> Result<Response, AdminError> {
    unless_known(&admin.daemon, &headers, async |daemon| {
        let mut views = Vec::new();
        for state in renewal::all(daemon).await? {
            views.push(view(daemon, state).await?);
        }
        Ok(Json(views))
    })
    .await
}

/// The work of the agent.
pub(super) async fn tasks(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    headers: HeaderMap,
) -> Result<Response, AdminError> {
    admin.daemon.renewals.see_agent(actor.pid());
    unless_known(&admin.daemon, &headers, async |daemon| {
        let mut tasks = Vec::new();
        for state in renewal::all(daemon).await? {
            tasks.push(task(daemon, state).await?);
        }
        Ok(Json(Tasks { now: now(), tasks }))
    })
    .await
}

/// The answer with its tag, or 304 if the caller has the answer with this tag (RFC 9110, 13.1.2).
/// The agent and the deployer ask all the time, and every plan is read for an answer.
async fn unless_known<T: IntoResponse>(
    daemon: &Daemon,
    headers: &HeaderMap,
    answer: impl AsyncFnOnce(&Daemon) -> Result<T, AdminError>,
) -> Result<Response, AdminError> {
    // Plans change with keys, progress and configuration, and with the time: a plan becomes due.
    let keys = *daemon.keys.changes().subscribe().borrow();
    let (progress, minute) = (daemon.renewals.changes(), now() / 60);
    let looked = daemon.renewals.looked_at();
    let tag = format!("\"{keys}-{progress}-{looked}-{minute}-{}\"", daemon.fingerprint());
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return Ok(([(ETAG, tag)], StatusCode::NOT_MODIFIED).into_response());
    }
    Ok(([(ETAG, tag)], answer(daemon).await?).into_response())
}

/// Certificates that somebody else renews.
pub(super) async fn watched(State(admin): State<Admin>) -> Answer<Vec<Watched>> {
    let config = admin.daemon.config();
    let of = |watch: &config::Watch| {
        let name = watch.name.as_str();
        let seen = admin.daemon.renewals.watched(name);
        let seen = seen.filter(|one| one.seen.saturating_add(LOOK_LIFE) > now());
        seen.unwrap_or_else(|| Watched {
            name: name.to_owned(),
            problem: Some("keyward-deploy has not looked within the last minutes".into()),
            ..Watched::default()
        })
    };
    Ok(Json(config.watches.iter().map(of).collect()))
}

/// Takes what the deployer has seen of certificates that somebody else renews.
pub(super) async fn see(
    State(admin): State<Admin>,
    Document(watched): Document<Vec<Watched>>,
) -> Answer<Value> {
    let config = admin.daemon.config();
    let known = |one: &Watched| config.watches.iter().any(|watch| watch.name.as_str() == one.name);
    let checked = watched.into_iter().filter(known).map(|one| Watched {
        problem: one.problem.as_deref().map(printable),
        names: one.names.iter().map(|name| printable(name)).collect(),
        seen: now(),
        ..one
    });
    admin.daemon.renewals.see_watched(checked);
    Ok(Json(json!({})))
}

/// A signed message for the authority of a plan.
pub(super) async fn message(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(name): OfKey,
    Document(wanted): Document<Message>,
) -> Answer<Value> {
    let Message { step, url, nonce } = wanted;
    let step = serde_json::from_value(Value::from(step));
    let step = step.map_err(|_| {
        AdminError::Invalid("the steps are new-account, new-order, read, answer, finalize and revoke".into())
    })?;
    let signed = renewal::message(&admin.daemon, actor, &name, step, &url, &nonce).await?;
    Ok(Json(signed))
}

/// The certificate request of a plan whose issuer is a program.
pub(super) async fn request(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(name): OfKey,
) -> Answer<Value> {
    let request = renewal::request_for_program(&admin.daemon, actor, &name).await?;
    let pem = pem_rfc7468::encode_string("CERTIFICATE REQUEST", pem_rfc7468::LineEnding::LF, &request);
    let pem = pem.map_err(|error| AdminError::Invalid(error.to_string()))?;
    Ok(Json(json!({ "pem": pem })))
}

/// How the agent brings a chain.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Choice {
    /// False for an authority that does not have the chain that the owner prefers.
    #[serde(default = "is_preferred")]
    preferred: bool,
}

const fn is_preferred() -> bool {
    true
}

/// The chain that the issuer of a plan gave.
pub(super) async fn accept(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(name): OfKey,
    choice: Result<Query<Choice>, QueryRejection>,
    body: Body,
) -> Answer<Option<Certificate>> {
    let Query(Choice { preferred }) = choice.map_err(|error| AdminError::Invalid(error.body_text()))?;
    let chain = Chain::read(&body?).map_err(lifecycle::Error::from)?;
    let state = renewal::accept(&admin.daemon, actor, &name, &chain, preferred).await?;
    Ok(Json(certificate(&state)))
}

/// Takes a report of the agent about a plan.
pub(super) async fn report(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(name): OfKey,
    Document(told): Document<Report>,
) -> Answer<Value> {
    let order = renewal::report(&admin.daemon, actor, &name, told).await?;
    Ok(Json(json!({ "order": order })))
}

/// The files of a plan.
pub(super) async fn files(State(admin): State<Admin>, OfKey(name): OfKey) -> Answer<Files> {
    let files = renewal::files(&admin.daemon, &name).await?;
    let state = renewal::of(&admin.daemon, &name).await?;
    let plan = state.plan;
    let servers = plan.servers.iter().map(|server| server.name().to_owned()).collect();
    Ok(Json(Files {
        plan: name.to_string(),
        chain: files.chain,
        reference: files.reference,
        certificate: files.certificate,
        not_after: files.not_after,
        is_placeholder: files.is_placeholder,
        is_makeshift: files.is_makeshift,
        servers,
        hook: plan.hook,
        listeners: plan.listeners,
        server_name: plan.names.first().map(Identifier::to_string).unwrap_or_default(),
    }))
}

/// The result of a deployment.
pub(super) async fn deployed(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(name): OfKey,
    Document(told): Document<Deployed>,
) -> Answer<Value> {
    renewal::deployed(&admin.daemon, actor, &name, told).await?;
    Ok(Json(json!({})))
}

/// Has the keys of a plan made.
pub(super) async fn prepare(State(admin): State<Admin>, OfKey(name): OfKey) -> Answer<PlanView> {
    renewal::prepare(&admin.daemon, &name).await?;
    Ok(Json(view(&admin.daemon, renewal::of(&admin.daemon, &name).await?).await?))
}

/// How a plan is renewed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Renew {
    /// True for a new version of the key.
    #[serde(default)]
    new_key: bool,
}

/// Has a plan renewed now.
pub(super) async fn renew(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(name): OfKey,
    Document(Renew { new_key }): Document<Renew>,
) -> Answer<PlanView> {
    renewal::renew_now(&admin.daemon, actor, &name, new_key).await?;
    Ok(Json(view(&admin.daemon, renewal::of(&admin.daemon, &name).await?).await?))
}

/// Revocations that a person asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoke {
    /// Reason (RFC 5280, 5.3.1); none gives the revocations up that have not succeeded.
    reason: Option<u8>,
    /// SHA-256 of each certificate, in hexadecimal digits.
    #[serde(default)]
    certificates: Vec<String>,
    /// In the place of certificates: a version of the key that is compromised; none for the current
    /// one.
    #[serde(default)]
    version: Option<u32>,
}

/// Answer to a wish for a revocation.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Revoked {
    /// The plan whose certificate is revoked.
    Plan(Box<PlanView>),
    /// Revocations that were given up.
    GivenUp(Vec<ToRevoke>),
}

/// Has certificates of a plan revoked.
pub(super) async fn revoke(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(name): OfKey,
    Document(Revoke { reason, certificates, version }): Document<Revoke>,
) -> Answer<Revoked> {
    let meant = match (certificates.is_empty(), version) {
        (true, version) => Meant::Version(version),
        (false, None) => Meant::Certificates(certificates),
        (false, Some(_)) => {
            return Err(AdminError::Invalid("name certificates or a version, not both".into()));
        }
    };
    // 0 unspecified, 1 keyCompromise, 4 superseded, 5 cessationOfOperation: what public
    // authorities take from owners.
    match reason {
        Some(reason @ (0 | 1 | 4 | 5)) => renewal::revoke(&admin.daemon, actor, &name, reason, meant).await?,
        Some(_) => return Err(AdminError::Invalid("the reasons are 0, 1, 4 and 5 (RFC 5280, 5.3.1)".into())),
        None => return Ok(Json(Revoked::GivenUp(renewal::keep(&admin.daemon, actor, &name).await?))),
    }
    let view = view(&admin.daemon, renewal::of(&admin.daemon, &name).await?).await?;
    Ok(Json(Revoked::Plan(Box::new(view))))
}

/// Plans and certificates of others, for their metrics.
///
/// # Errors
/// The key store cannot be read.
pub(super) async fn looks(daemon: &Daemon) -> Result<(Vec<PlanLook>, Vec<WatchLook>), lifecycle::Error> {
    let plans = renewal::all(daemon).await?.into_iter().map(|state| look(daemon, state)).collect();
    let of = |watch: &config::Watch| {
        let seen = daemon.renewals.watched(watch.name.as_str());
        let seen = seen.filter(|one| one.seen.saturating_add(LOOK_LIFE) > now());
        WatchLook { watch: watch.name.to_string(), validity: seen.and_then(|seen| seen.validity) }
    };
    Ok((plans, daemon.config().watches.iter().map(of).collect()))
}

fn look(daemon: &Daemon, state: renewal::PlanState) -> PlanLook {
    let (is_served, looked_at) = served(daemon, &state);
    let deployed = state.progress.deployed.as_ref();
    let listeners = deployed.into_iter().flat_map(|deployed| &deployed.listeners);
    PlanLook {
        plan: state.plan.name.to_string(),
        key: state.plan.key.to_string(),
        issuer: state.plan.issuer.name().to_owned(),
        version: state.version,
        due: state.due,
        listeners: listeners.filter_map(|(at, shown)| Some((at.to_string(), shown.not_after?))).collect(),
        is_served,
        // Nobody has looked at a server that needs a look: a time that is long ago.
        looked_at: looked_at.or_else(|| state.plan.is_deployed().then_some(0)),
        failures: state.progress.failures + state.progress.revocation_failures,
        renewed_at: state.progress.renewed_at,
    }
}

/// Whether every listener of a plan shows its certificate, and when the deployer has last looked.
/// An answer of long ago is none.
pub(super) fn served(daemon: &Daemon, state: &renewal::PlanState) -> (Option<bool>, Option<u64>) {
    let looked_at = daemon.renewals.looked(state.plan.name.as_str());
    let is_new = looked_at.is_some_and(|at| at.saturating_add(LOOK_LIFE) > now());
    let deployed = state.progress.deployed.as_ref();
    // Without listeners, nobody knows.
    let deployed =
        deployed.filter(|deployed| is_new && (!deployed.listeners.is_empty() || deployed.problem.is_some()));
    let is_served = deployed.zip(state.certificate.as_ref()).map(|(deployed, certificate)| {
        deployed.is_served() && deployed.certificate == certificate.fingerprint()
    });
    // The deployer needs a moment for a new certificate.
    let is_fresh = state.progress.renewed_at.is_some_and(|at| at.saturating_add(DEPLOYMENT) > now());
    let has_problem = state.progress.deployed.as_ref().is_some_and(|deployed| deployed.problem.is_some());
    (is_served.filter(|is_served| *is_served || !is_fresh || has_problem), looked_at)
}

/// Programs that a plan runs.
fn programs(plan: &config::Plan) -> Vec<PathBuf> {
    let of_issuer = match &plan.issuer {
        config::Issuer::Command(command)
        | config::Issuer::Acme { challenge: config::Challenge::DnsHook(command), .. } => Some(command),
        config::Issuer::Acme { .. } => None,
    };
    let commands = of_issuer.into_iter().chain(&plan.notify).chain(&plan.hook);
    commands.filter_map(|command| Some(PathBuf::from(command.first()?))).collect()
}

async fn view(daemon: &Daemon, state: renewal::PlanState) -> Result<PlanView, AdminError> {
    let acme = acme(daemon, &state).await?;
    let account_problem = renewal::account_problem(daemon, &state.plan).await?;
    let (certificate, words) = (certificate(&state), words(daemon, &state));
    let (is_served, looked_at) = served(daemon, &state);
    let key_problem = key_problem(&state);
    let explanation = state.window().and_then(|window| window.explanation.clone());
    let is_revoked = state.is_revoked();
    let progress_problem = progress_problem(daemon);
    let is_known = progress_problem.is_none();
    let revocable = renewal::revocable(daemon, &state).await?;
    let revocations = to_revoke(daemon, &state);
    let has_revocation = !state.revocations.is_empty();
    let revocation_problem = revocation_problem(daemon, &state);
    let renewal::PlanState { plan, progress, due, may_be_revoked, is_compromised, .. } = state;
    let config = daemon.config();
    let authority = authority(&config, &plan);
    let issuer_domain = authority.map(|authority| issuer_domain(&authority.host()).to_owned());
    let account = acme.as_ref().and_then(|acme| acme.account.as_ref());
    let caa = account.zip(issuer_domain.as_ref()).map(|(account, domain)| {
        let kind =
            if acme.as_ref().is_some_and(|acme| acme.challenge.is_dns()) { "dns-01" } else { "http-01" };
        format!("CAA 0 issue \"{domain}; accounturi={account}; validationmethods={kind}\"")
    });
    let last_error = progress.last_error.or(progress.revocation_error);
    let deployed = progress.deployed;
    Ok(PlanView {
        plan: plan.name.to_string(),
        key: plan.key.to_string(),
        names: plan.names.iter().map(Identifier::to_string).collect(),
        issuer: plan.issuer.name().to_owned(),
        state: words.to_owned(),
        due,
        renewed_at: progress.renewed_at,
        failures: progress.failures + progress.revocation_failures,
        last_kind: last_error.as_ref().map(|failed| failed.kind.clone()),
        last_error: last_error.map(|failed| failed.detail),
        challenge: plan.issuer.challenge().map(|challenge| {
            let kind = match challenge {
                config::Challenge::Http => "http",
                config::Challenge::Webroot(_) => "webroot",
                config::Challenge::DnsHook(_) | config::Challenge::DnsUpdate { .. } => "dns",
            };
            kind.to_owned()
        }),
        agent_seen: daemon.renewals.agent_seen(),
        clock_ahead: authority.and_then(|authority| daemon.renewals.clock_ahead(&authority.directory)),
        account_problem,
        former_account: acme.as_ref().and_then(|acme| acme.former_account.clone()),
        account: acme.as_ref().and_then(|acme| acme.account.clone()),
        key_problem: key_problem.map(str::to_owned),
        progress_doubt: daemon.renewals.problem().filter(|_| is_known),
        progress_problem,
        revocable,
        revocations,
        has_revocation: is_known.then_some(has_revocation),
        is_revoked: is_known.then_some(is_revoked),
        may_be_revoked: is_known.then_some(may_be_revoked),
        is_compromised: is_known.then_some(is_compromised),
        revocation_problem,
        files: needed_files(daemon, &plan),
        programs: programs(&plan),
        webroot: match plan.issuer.challenge() {
            Some(config::Challenge::Webroot(directory)) => Some(directory.clone()),
            _ => None,
        },
        is_deployed_here: plan.is_deployed(),
        explanation,
        issuer_domain,
        is_served,
        looked_at,
        deployed: deployed.map(|one| Deployed {
            certificate: one.certificate,
            is_placeholder: one.is_placeholder,
            listeners: one.listeners,
            problem: one.problem,
        }),
        caa,
        thumbprint: acme.and_then(|acme| acme.thumbprint),
        certificate,
    })
}

/// The domain by which an authority knows itself in CAA records (RFC 8659, 4.2).
fn issuer_domain(host: &str) -> &str {
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    match host {
        "acme-v02.api.letsencrypt.org" | "acme-staging-v02.api.letsencrypt.org" => "letsencrypt.org",
        "dv.acme-v02.api.pki.goog" | "dv.acme-v02.test-api.pki.goog" => "pki.goog",
        "acme.zerossl.com" => "sectigo.com",
        other => other,
    }
}

async fn task(daemon: &Daemon, state: renewal::PlanState) -> Result<Task, AdminError> {
    let acme = acme(daemon, &state).await?;
    let name = |name: &Identifier| Name { kind: name.kind().into(), value: name.to_string() };
    Ok(Task {
        plan: state.plan.name.to_string(),
        due: state.due,
        names: state.plan.names.iter().map(name).collect(),
        issuer: match (&state.plan.issuer, acme) {
            (config::Issuer::Command(command), _) => Issuer::Command(command.clone()),
            (config::Issuer::Acme { .. }, Some(acme)) => Issuer::Acme(acme),
            // The configuration was checked: every authority of a plan is there.
            (config::Issuer::Acme { .. }, None) => Issuer::Command(Vec::new()),
        },
        notify: state.plan.notify.clone(),
        certificate: certificate(&state),
        revokes: revokes(daemon, &state),
        former_orders: former_orders(daemon, &state),
        state: words(daemon, &state).to_owned(),
        last_error: progress_problem(daemon).or_else(|| {
            state.progress.last_error.or(state.progress.revocation_error).map(|failed| failed.detail)
        }),
    })
}

/// The authority of a plan; `None` if a program issues.
fn authority<'c>(config: &'c config::Config, plan: &config::Plan) -> Option<&'c config::Authority> {
    let config::Issuer::Acme { authority, .. } = &plan.issuer else { return None };
    config.authorities.get(authority)
}

/// Reason of the next revocation at the authority of a plan.
fn revokes(daemon: &Daemon, state: &renewal::PlanState) -> Option<u8> {
    Some(state.revocation(authority(&daemon.config(), &state.plan)?)?.reason)
}

/// Orders at the authority of a plan at which the agent looks now.
fn former_orders(daemon: &Daemon, state: &renewal::PlanState) -> Vec<String> {
    let config = daemon.config();
    let authority = authority(&config, &state.plan);
    authority.map(|authority| state.orders_to_read(authority, now())).unwrap_or_default()
}

/// Why the progress of plans cannot be read, if it cannot.
pub(super) fn progress_problem(daemon: &Daemon) -> Option<String> {
    daemon.renewals.check().err().map(|error| error.to_string())
}

/// Certificates to be revoked that are the concern of a plan.
fn to_revoke(daemon: &Daemon, state: &renewal::PlanState) -> Vec<ToRevoke> {
    let known = daemon.renewals.known();
    let certificates = state.revocations.iter().map(|asked| renewal::shown(&known, asked));
    certificates.chain(state.former_orders.iter().map(renewal::shown_order)).collect()
}

/// Why a revocation does not go on, if one does not: only the authority that has issued a
/// certificate revokes it.
pub(super) fn revocation_problem(daemon: &Daemon, state: &renewal::PlanState) -> Option<String> {
    let (config, plan) = (daemon.config(), &state.plan);
    let here = authority(&config, plan);
    let other =
        state.revocations.iter().find(|asked| !here.is_some_and(|here| renewal::is_at(&asked.at, here)))?;
    let account = other.at.account_key.as_ref();
    let account = account.map(|key| format!(", and its account with the key {key}")).unwrap_or_default();
    Some(format!(
        "the revocation of a certificate waits for the authority at {}{account}, which the plan does not have any more: name that authority in ca until the certificate is revoked, or give the revocation up: keyward cert revoke {} --cancel",
        other.at.directory,
        // A plan gives up its own ones, and those of a plan that is gone by the name of that one.
        if other.key == plan.key.as_str() || other.plan.is_empty() {
            plan.name.as_str()
        } else {
            &other.plan
        }
    ))
}

async fn acme(daemon: &Daemon, state: &renewal::PlanState) -> Result<Option<Acme>, AdminError> {
    let config::Issuer::Acme { authority, challenge, .. } = &state.plan.issuer else { return Ok(None) };
    let config = daemon.config();
    let Some(authority) = config.authorities.get(authority) else { return Ok(None) };
    let key = daemon.keys.get(&authority.account_key).await?;
    let thumbprint = key.as_ref().and_then(|key| Some(AccountKey::of(&key.version(0)?.spki)?.thumbprint()));
    let account = thumbprint.as_ref();
    let account = account.and_then(|thumbprint| daemon.renewals.account(&authority.directory, thumbprint));
    Ok(Some(Acme {
        directory: authority.directory.clone(),
        root: authority.root.clone(),
        challenge: match challenge.clone() {
            config::Challenge::Http => Challenge::Http,
            config::Challenge::Webroot(directory) => Challenge::Webroot(directory),
            config::Challenge::DnsHook(command) => Challenge::DnsHook(command),
            config::Challenge::DnsUpdate { server, key } => Challenge::DnsUpdate { server, key },
        },
        former_account: account.as_ref().and_then(|account| account.former.clone()),
        account: account.and_then(|account| account.url),
        thumbprint,
        order: state.progress.order.clone(),
        next_look: state.window().map_or(0, |window| window.next_look),
        next_try: state.progress.next_revocation,
    }))
}

/// Seconds within which a new certificate need not be served yet.
const DEPLOYMENT: u64 = 30;
/// Seconds for which a look of the deployer counts. It looks each minute.
pub(super) const LOOK_LIFE: u64 = 300;

fn certificate(state: &renewal::PlanState) -> Option<Certificate> {
    let one = state.certificate.as_ref()?;
    Some(Certificate {
        id: state.certificate_id(),
        fingerprint: one.fingerprint(),
        version: state.version?,
        not_before: one.not_before(),
        not_after: one.not_after(),
    })
}

/// Why the key of a plan signs nothing, if it does not: its certificate cannot be renewed then.
pub(super) fn key_problem(state: &renewal::PlanState) -> Option<&'static str> {
    match state.key.as_ref()?.standing(now()) {
        Standing::Active => None,
        Standing::PreActive => Some("the first date of the key has not come, see keyward key show"),
        Standing::Suspended => Some("the key is disabled"),
        Standing::Deactivated => Some("the last date of the key has passed, see keyward key show"),
        Standing::Compromised => Some("the key is compromised"),
        Standing::Deleted => Some("the key is deleted"),
    }
}

/// Files that the agent reads for a plan.
fn needed_files(daemon: &Daemon, plan: &config::Plan) -> Vec<PathBuf> {
    let config = daemon.config();
    let root = authority(&config, plan).and_then(|authority| authority.root.clone());
    let key = match plan.issuer.challenge() {
        Some(config::Challenge::DnsUpdate { key, .. }) => Some(key.clone()),
        _ => None,
    };
    root.into_iter().chain(key).collect()
}

/// Word for the state of a plan.
pub(super) fn words(daemon: &Daemon, state: &renewal::PlanState) -> &'static str {
    let now = now();
    match &state.certificate {
        _ if key_problem(state).is_some() || progress_problem(daemon).is_some() => "failing",
        Some(certificate) if certificate.not_after() <= now => "expired",
        _ if state.progress.failures + state.progress.revocation_failures > 0 => "failing",
        _ if revocation_problem(daemon, state).is_some() => "failing",
        None => "none",
        Some(_) if state.due <= now => "due",
        Some(_) => "valid",
    }
}
