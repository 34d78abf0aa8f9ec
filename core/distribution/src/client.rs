//! The client: endpoints in order, credentials, retries, redirects.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use containerkit::{Context as _, Error, ErrorKind, Reference, Result, quote};
use ureq::http::Method;

use crate::auth::{self, Authorization, Challenge, Found, Secret, Wanted};
use crate::deadline::Deadline;
use crate::http::{self, Answer, Call, Http, Manner};
use crate::origin::{Origin, Scheme, Url};
use crate::settings::{Endpoint, Role, Settings};

/// Redirects that are followed.
const REDIRECTS: u32 = 5;
/// Tries of a mirror, behind which somebody else is to be asked.
const MIRROR_ATTEMPTS: u32 = 2;

/// A client of registries. Clones share connections and tokens.
#[derive(Clone)]
pub struct Registry(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) settings: Settings,
    pub(crate) http: Http,
    tokens: Mutex<HashMap<(Origin, String), Authorization>>,
    /// Mirrors that gave no answer at all: not asked again.
    dead: Mutex<HashSet<Origin>>,
}

/// What a request needs to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access<'a> {
    Nothing,
    Pull,
    Push,
    /// Push, and pull from another repository there.
    Mount(&'a str),
}

impl Access<'_> {
    fn scopes(self, repository: &str) -> Vec<String> {
        match self {
            Access::Nothing => Vec::new(),
            Access::Pull => vec![format!("repository:{repository}:pull")],
            Access::Push => vec![format!("repository:{repository}:pull,push")],
            Access::Mount(from) => vec![
                format!("repository:{repository}:pull,push"),
                format!("repository:{from}:pull"),
            ],
        }
    }
}

impl Registry {
    /// A client with these settings. Nothing is connected yet.
    pub fn new(settings: Settings) -> Registry {
        Registry(Arc::new(Inner {
            http: Http::new(settings.retry.clone(), settings.cancel.clone()),
            settings,
            tokens: Mutex::default(),
            dead: Mutex::default(),
        }))
    }

    /// The settings that it was made with.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Where the credentials of an endpoint come from, and what they are. Those
    /// of a domain are its own origin's: a mirror of the same name that is
    /// spoken to in another way has none of them.
    pub fn credentials(&self, endpoint: &Endpoint) -> Result<Option<Found>> {
        let settings = self.settings();
        if settings.origin(&endpoint.domain)? != endpoint.origin {
            return Ok(None);
        }
        let registry = settings.of(&endpoint.domain);
        settings.keyring.find(
            &endpoint.domain,
            &endpoint.repository,
            registry.helper.as_deref(),
        )
    }

    /// Asks a registry whether it takes the credentials that are known for it.
    pub fn probe(&self, domain: &str) -> Result<()> {
        let endpoint = Endpoint {
            origin: self.settings().origin(domain)?,
            repository: String::new(),
            role: Role::Registry,
            domain: domain.into(),
        };
        let call = Call::get(Url::new(endpoint.origin.clone(), "/v2/"));
        self.want(&endpoint, Access::Nothing, &call).map(drop)
    }

    /// Who is asked for a reference's content, without mirrors that are dead.
    pub(crate) fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>> {
        let mut endpoints = self.settings().endpoints(reference)?;
        let dead = self.0.dead.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.retain(|endpoint| !dead.contains(&endpoint.origin));
        Ok(endpoints)
    }

    /// How often an endpoint is tried.
    pub(crate) fn attempts(&self, endpoint: &Endpoint) -> u32 {
        let attempts = self.0.http.retry.attempts;
        match endpoint.role {
            Role::Registry => attempts,
            Role::Mirror => attempts.min(MIRROR_ATTEMPTS),
        }
    }

    /// Sends a request until it is answered with something that will not pass
    /// by itself. The answer may still be an error's.
    pub(crate) fn ask(
        &self,
        endpoint: &Endpoint,
        access: Access<'_>,
        call: &Call<'_>,
    ) -> Result<Answer> {
        let http = &self.0.http;
        let mut attempt = 0;
        loop {
            let last = attempt + 1 >= self.attempts(endpoint);
            let asked = match self.follow(endpoint, access, call) {
                Ok(answer) if !last && http::status_may_pass(answer.status) => {
                    let asked = http::retry_after(&answer);
                    log::info!("{}: {}, trying again", call.url, answer.error());
                    asked
                }
                Err(error) if !last && http::may_pass(&error) => {
                    log::info!("{}: {error}, trying again", call.url);
                    None
                }
                Err(error) if endpoint.role == Role::Mirror && http::may_pass(&error) => {
                    let mut dead = self.0.dead.lock().unwrap_or_else(PoisonError::into_inner);
                    dead.insert(endpoint.origin.clone());
                    return Err(error);
                }
                ended => return ended,
            };
            http.pause(attempt, asked)?;
            attempt += 1;
        }
    }

    /// As `ask`, and an error status is an error.
    pub(crate) fn want(
        &self,
        endpoint: &Endpoint,
        access: Access<'_>,
        call: &Call<'_>,
    ) -> Result<Answer> {
        let answer = self.ask(endpoint, access, call)?;
        match answer.is_success() {
            true => Ok(answer),
            false => Err(answer.error()),
        }
    }

    /// As `want`, with a document that is read whole. One that breaks off is
    /// asked for again; one that took all its time is not.
    pub(crate) fn read<T>(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
        read: impl Fn(Answer) -> Result<T>,
    ) -> Result<T> {
        let mut attempt = 0;
        loop {
            let answer = self.want(endpoint, Access::Pull, call)?;
            match read(answer) {
                Err(error)
                    if error.kind() == ErrorKind::Unavailable
                        && attempt + 1 < self.attempts(endpoint) =>
                {
                    log::info!("{}: {error}, trying again", call.url);
                    self.0.http.pause(attempt, None)?;
                    attempt += 1;
                }
                ended => return ended,
            }
        }
    }

    /// The error of an answer that may pass by itself, after the time that it
    /// asks for, as far as there is time.
    pub(crate) fn passing(&self, answer: Answer, deadline: Deadline) -> Error {
        if let Some(asked) = http::retry_after(&answer) {
            let pause = deadline.left().map_or(asked, |left| left.min(asked));
            if let Err(cancelled) = self.0.http.pause(0, Some(pause)) {
                return cancelled;
            }
        }
        answer.error().with_kind(ErrorKind::Unavailable)
    }

    /// One request, authorized and redirected as far as it has to be.
    pub(crate) fn follow(
        &self,
        endpoint: &Endpoint,
        access: Access<'_>,
        call: &Call<'_>,
    ) -> Result<Answer> {
        let scopes = access.scopes(&endpoint.repository);
        let mut url = call.url.clone();
        let mut challenged = false;
        let mut hops = 0;
        loop {
            let home = url.origin == endpoint.origin;
            let mut headers = call.headers.clone();
            if home && let Some(known) = self.authorization(endpoint, &scopes) {
                headers.push(("authorization", known));
            }
            let one = Call {
                method: call.method.clone(),
                url: url.clone(),
                headers,
                payload: call.payload,
                extent: call.extent,
            };
            let answer = self.0.http.once(&self.manner(endpoint, &url), &one)?;
            if answer.status == 401 && home && !challenged {
                challenged = true;
                if self.authorize(endpoint, &scopes, &answer)? {
                    continue;
                }
            }
            let follows = matches!(call.method, Method::GET | Method::HEAD)
                && matches!(answer.status, 301 | 302 | 303 | 307 | 308);
            let location = answer.header("location").filter(|_| follows);
            let Some(location) = location else {
                return Ok(answer);
            };
            let next = url.join(location).context(|| format!("{url} redirects"))?;
            refuse_downgrade(&url, &next)?;
            hops += 1;
            if hops > REDIRECTS {
                return Err(Error::new(
                    ErrorKind::FailedPrecondition,
                    format!("{} redirects more than {REDIRECTS} times", call.url),
                ));
            }
            url = next;
        }
    }

    /// Sends a stream, once: whoever has the data decides what comes after.
    pub(crate) fn send(
        &self,
        endpoint: &Endpoint,
        access: Access<'_>,
        call: Call<'_>,
        data: &mut dyn std::io::Read,
        size: u64,
    ) -> Result<Answer> {
        let scopes = access.scopes(&endpoint.repository);
        let mut call = call;
        if call.url.origin == endpoint.origin
            && let Some(known) = self.authorization(endpoint, &scopes)
        {
            call.headers.push(("authorization", known));
        }
        let manner = self.manner(endpoint, &call.url);
        self.0.http.stream(&manner, &call, data, size)
    }

    /// After a 401 to a stream: whether it is worth sending again.
    pub(crate) fn authorize_again(
        &self,
        endpoint: &Endpoint,
        access: Access<'_>,
        answer: &Answer,
    ) -> Result<bool> {
        self.authorize(endpoint, &access.scopes(&endpoint.repository), answer)
    }

    fn manner(&self, endpoint: &Endpoint, url: &Url) -> Manner {
        let registry = self.settings().of(&endpoint.domain);
        Manner {
            scheme: url.origin.scheme(),
            ca: registry.ca,
            idle: registry.idle_timeout,
        }
    }

    fn authorization(&self, endpoint: &Endpoint, scopes: &[String]) -> Option<String> {
        let tokens = self.0.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens
            .get(&(endpoint.origin.clone(), scopes.join(" ")))
            .filter(|known| known.is_fresh())
            .map(|known| known.value.clone())
    }

    /// Gets what a 401 asks for; `false` when there is nothing to be had.
    fn authorize(&self, endpoint: &Endpoint, scopes: &[String], answer: &Answer) -> Result<bool> {
        let challenges: Vec<Challenge> = answer
            .all("www-authenticate")
            .into_iter()
            .filter_map(auth::parse)
            .collect();
        let bearer = challenges
            .iter()
            .find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        let Some(challenge) = bearer.or(challenges.first()) else {
            return Ok(false);
        };
        let known = match challenge {
            Challenge::Basic => match self.credentials(endpoint)? {
                Some(Found {
                    secret: Secret::Password { user, password },
                    ..
                }) => auth::basic(&user, &password),
                _ => return Ok(false),
            },
            Challenge::Bearer { realm, service } => {
                self.token(endpoint, scopes, realm, service.as_deref())?
            }
        };
        let mut tokens = self.0.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert((endpoint.origin.clone(), scopes.join(" ")), known);
        Ok(true)
    }

    fn token(
        &self,
        endpoint: &Endpoint,
        scopes: &[String],
        realm: &str,
        service: Option<&str>,
    ) -> Result<Authorization> {
        let realm: Url = realm
            .parse()
            .context(|| format!("{}: the token server that it names", endpoint.origin))?;
        if endpoint.origin.scheme() == Scheme::Https && realm.origin.scheme() == Scheme::Http {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                format!(
                    "{}: its token server {} speaks HTTP in the clear",
                    endpoint.origin, realm.origin
                ),
            ));
        }
        let covered = self.settings().covers(endpoint, &realm.origin);
        let secret = self.credentials(endpoint)?.map(|found| found.secret);
        let kept = secret.is_some() && !covered;
        if kept {
            log::warn!(
                "{}: its token server {} is not covered by the registry's settings and is asked without credentials",
                endpoint.origin,
                realm.origin
            );
        }
        let manner = self.manner(endpoint, &realm);
        let origin = realm.origin.clone();
        let wanted = Wanted {
            realm,
            service,
            scopes,
        };
        let send = |call: Call<'_>| {
            let answer = self.0.http.once(&manner, &call)?;
            match http::status_may_pass(answer.status) {
                true => Err(self.passing(answer, Deadline::default())),
                false => Ok(answer),
            }
        };
        auth::fetch(&wanted, secret.as_ref().filter(|_| covered), &send).map_err(|error| {
            match kept {
                false => error,
                true => error.with_hint(format!(
                    "its credentials were not sent: list {origin} as `token_realms` in [registry.\"{}\"] if it may have them",
                    endpoint.domain
                )),
            }
        })
    }
}

/// What began by TLS does not go on in the clear.
pub(crate) fn refuse_downgrade(from: &Url, to: &Url) -> Result<()> {
    if from.origin.scheme() == Scheme::Https && to.origin.scheme() == Scheme::Http {
        return Err(Error::new(
            ErrorKind::PermissionDenied,
            format!(
                "{} leads to plain HTTP at {}",
                from.origin,
                quote(&to.origin.to_string())
            ),
        ));
    }
    Ok(())
}
