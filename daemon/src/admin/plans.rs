//! Certificates that renew themselves: for people, for the agent and for the deployer.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Extension, State};
use keyward_plans::{
    Acme, Certificate, Challenge, Deployed, Files, Issuer, Message, Name, PlanView, Report, Task, Tasks,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::parse::{Document, OfKey};
use super::{Admin, AdminError, Administrator, Answer, Body};
use crate::config::{self, Identifier};
use crate::daemon::Daemon;
use crate::keys::certificates::Chain;
use crate::keys::now;
use crate::lifecycle::{self, renewal};
use crate::observe::renewals::PlanLook;
use crate::renewal::jws::AccountKey;

/// Every plan, for people.
pub(super) async fn list(State(admin): State<Admin>) -> Answer<Vec<PlanView>> {
    let mut views = Vec::new();
    for state in renewal::all(&admin.daemon).await? {
        views.push(view(&admin.daemon, state).await?);
    }
    Ok(Json(views))
}

/// The work of the agent.
pub(super) async fn tasks(State(admin): State<Admin>) -> Answer<Tasks> {
    admin.daemon.renewals.see_agent(now());
    let mut tasks = Vec::new();
    for state in renewal::all(&admin.daemon).await? {
        tasks.push(task(&admin.daemon, state).await?);
    }
    Ok(Json(Tasks { now: now(), tasks }))
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
    let request = renewal::request(&admin.daemon, actor, &name).await?;
    let pem = pem_rfc7468::encode_string("CERTIFICATE REQUEST", pem_rfc7468::LineEnding::LF, &request);
    let pem = pem.map_err(|error| AdminError::Invalid(error.to_string()))?;
    Ok(Json(json!({ "pem": pem })))
}

/// The chain that the issuer of a plan gave.
pub(super) async fn accept(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(name): OfKey,
    body: Body,
) -> Answer<Option<Certificate>> {
    let chain = Chain::read(&body?).map_err(lifecycle::Error::from)?;
    let state = renewal::accept(&admin.daemon, actor, &name, &chain).await?;
    Ok(Json(certificate(&state)))
}

/// Takes a report of the agent about a plan.
pub(super) async fn report(
    State(admin): State<Admin>,
    OfKey(name): OfKey,
    Document(told): Document<Report>,
) -> Answer<Value> {
    renewal::report(&admin.daemon, &name, told).await?;
    Ok(Json(json!({})))
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
    let Deployed { certificate, listeners, problem } = told;
    renewal::deployed(&admin.daemon, actor, &name, certificate, listeners, problem).await?;
    Ok(Json(json!({})))
}

/// Has the keys of a plan made.
pub(super) async fn prepare(State(admin): State<Admin>, OfKey(name): OfKey) -> Answer<PlanView> {
    renewal::prepare(&admin.daemon, &name).await?;
    Ok(Json(view(&admin.daemon, renewal::of(&admin.daemon, &name).await?).await?))
}

/// Has a plan renewed now.
pub(super) async fn renew(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(name): OfKey,
) -> Answer<PlanView> {
    renewal::renew_now(&admin.daemon, actor, &name).await?;
    Ok(Json(view(&admin.daemon, renewal::of(&admin.daemon, &name).await?).await?))
}

/// The reason of a revocation (RFC 5280, 5.3.1).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoke {
    reason: u8,
}

/// Has the certificate of a plan revoked.
pub(super) async fn revoke(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(name): OfKey,
    Document(Revoke { reason }): Document<Revoke>,
) -> Answer<PlanView> {
    // 0 unspecified, 1 keyCompromise, 4 superseded, 5 cessationOfOperation: what public
    // authorities take from owners.
    if ![0, 1, 4, 5].contains(&reason) {
        return Err(AdminError::Invalid("the reasons are 0, 1, 4 and 5 (RFC 5280, 5.3.1)".into()));
    }
    renewal::revoke(&admin.daemon, actor, &name, reason).await?;
    Ok(Json(view(&admin.daemon, renewal::of(&admin.daemon, &name).await?).await?))
}

/// A plan, for its metrics.
pub(super) fn look(state: renewal::PlanState) -> PlanLook {
    let certificate = certificate(&state);
    let deployed = state.progress.deployed.as_ref().zip(certificate);
    PlanLook {
        plan: state.plan.name.to_string(),
        due: state.due,
        is_served: deployed.map(|(deployed, certificate)| {
            deployed.is_served() && deployed.certificate == certificate.fingerprint
        }),
        failures: state.progress.failures,
        renewed_at: state.progress.renewed_at,
    }
}

async fn view(daemon: &Daemon, state: renewal::PlanState) -> Result<PlanView, AdminError> {
    let acme = acme(daemon, &state).await?;
    let (certificate, words) = (certificate(&state), words(&state));
    let renewal::PlanState { plan, progress, due, .. } = state;
    let caa = acme.as_ref().and_then(|acme| acme.account.as_ref()).map(|account| {
        let host = config::origin(account).unwrap_or_default().trim_start_matches("https://");
        format!("CAA 0 issue \"{}; accounturi={account}\"", issuer_domain(host))
    });
    let deployed = progress.deployed;
    Ok(PlanView {
        plan: plan.name.to_string(),
        key: plan.key.to_string(),
        names: plan.names.iter().map(Identifier::to_string).collect(),
        issuer: match &plan.issuer {
            config::Issuer::Acme { authority, .. } => authority.clone(),
            config::Issuer::Command(command) => command.first().cloned().unwrap_or_default(),
        },
        state: words.to_owned(),
        due,
        renewed_at: progress.renewed_at,
        failures: progress.failures,
        last_kind: progress.last_error.as_ref().map(|failed| failed.kind.clone()),
        last_error: progress.last_error.map(|failed| failed.detail),
        challenge: match &plan.issuer {
            config::Issuer::Acme { challenge, .. } => Some(
                match challenge {
                    config::Challenge::Http => "http",
                    config::Challenge::Webroot(_) => "webroot",
                    config::Challenge::DnsHook(_) | config::Challenge::DnsUpdate { .. } => "dns",
                }
                .to_owned(),
            ),
            config::Issuer::Command(_) => None,
        },
        agent_seen: daemon.renewals.agent_seen(),
        is_deployed_here: !plan.servers.is_empty() || plan.hook.is_some() || !plan.listeners.is_empty(),
        explanation: progress.window.and_then(|window| window.explanation),
        is_served: deployed.as_ref().zip(certificate.as_ref()).map(|(deployed, certificate)| {
            deployed.is_served() && deployed.certificate == certificate.fingerprint
        }),
        deployed: deployed.map(|one| Deployed {
            certificate: one.certificate,
            listeners: one.listeners.into_iter().collect::<BTreeMap<_, _>>(),
            problem: one.problem,
        }),
        caa,
        thumbprint: acme.and_then(|acme| acme.thumbprint),
        certificate,
    })
}

/// The domain by which an authority knows itself in CAA records (RFC 8659, 4.2).
fn issuer_domain(host: &str) -> &str {
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
        revokes: state.progress.revokes,
        state: words(&state).to_owned(),
        last_error: state.progress.last_error.map(|failed| failed.detail),
    })
}

async fn acme(daemon: &Daemon, state: &renewal::PlanState) -> Result<Option<Acme>, AdminError> {
    let config::Issuer::Acme { authority, challenge, .. } = &state.plan.issuer else { return Ok(None) };
    let config = daemon.config();
    let Some(authority) = config.authorities.get(authority) else { return Ok(None) };
    let key = daemon.keys.get(&authority.account_key).await?;
    let thumbprint = key.as_ref().and_then(|key| Some(AccountKey::of(&key.version(0)?.spki)?.thumbprint()));
    let account = daemon.renewals.account(&authority.directory);
    let account = account.filter(|account| Some(&account.thumbprint) == thumbprint.as_ref());
    Ok(Some(Acme {
        directory: authority.directory.clone(),
        root: authority.root.clone(),
        challenge: match challenge.clone() {
            config::Challenge::Http => Challenge::Http,
            config::Challenge::Webroot(directory) => Challenge::Webroot(directory),
            config::Challenge::DnsHook(command) => Challenge::DnsHook(command),
            config::Challenge::DnsUpdate { server, key } => Challenge::DnsUpdate { server, key },
        },
        account: account.map(|account| account.url),
        thumbprint,
        order: state.progress.order.clone(),
        next_look: state.progress.window.as_ref().map_or(0, |window| window.next_look),
    }))
}

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

fn words(state: &renewal::PlanState) -> &'static str {
    let now = now();
    match &state.certificate {
        Some(certificate) if certificate.not_after() <= now => "expired",
        _ if state.progress.failures > 0 => "failing",
        None => "none",
        Some(_) if state.due <= now => "due",
        Some(_) => "valid",
    }
}
