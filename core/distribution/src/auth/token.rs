//! Tokens: the distribution project's token protocol, and OAuth2's refresh
//! grant for identity tokens.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use containerkit::{Context as _, Error, ErrorKind, Result};
use serde::Deserialize;
use ureq::http::Method;

use crate::auth::Secret;
use crate::http::{Answer, Call};
use crate::origin::{Url, encode};

/// A value of the header, and until when it is good.
#[derive(Clone)]
pub(crate) struct Authorization {
    pub(crate) value: String,
    until: Option<Instant>,
}

impl Authorization {
    pub(crate) fn is_fresh(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }
}

/// A user and a password.
pub(crate) fn basic(user: &str, password: &str) -> Authorization {
    Authorization {
        value: format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))),
        until: None,
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// What a token is asked for.
pub(crate) struct Wanted<'a> {
    pub(crate) realm: Url,
    pub(crate) service: Option<&'a str>,
    pub(crate) scopes: &'a [String],
}

/// Asks for a token; without a secret, as nobody.
pub(crate) fn fetch(
    wanted: &Wanted<'_>,
    secret: Option<&Secret>,
    send: &dyn Fn(Call<'_>) -> Result<Answer>,
) -> Result<Authorization> {
    let realm = wanted.realm.to_string();
    let answer = match secret {
        Some(Secret::IdentityToken(token)) => {
            let mut form = format!(
                "grant_type=refresh_token&client_id=containerkit&refresh_token={}",
                encode(token)
            );
            if let Some(service) = wanted.service {
                form.push_str(&format!("&service={}", encode(service)));
            }
            form.push_str(&format!("&scope={}", encode(&wanted.scopes.join(" "))));
            let call = Call::new(Method::POST, wanted.realm.clone())
                .header("content-type", "application/x-www-form-urlencoded")
                .bytes(form.as_bytes());
            send(call)?
        }
        other => {
            let mut url = wanted.realm.clone();
            if let Some(service) = wanted.service {
                url = url.with_query("service", service);
            }
            for scope in wanted.scopes {
                url = url.with_query("scope", scope);
            }
            let mut call = Call::get(url);
            if let Some(Secret::Password { user, password }) = other {
                call = call.header("authorization", basic(user, password).value);
            }
            send(call)?
        }
    };
    if !answer.is_success() {
        return Err(answer.error()).context(|| "ask for a token");
    }
    let data = answer.small(1 << 20)?;
    let bad = || {
        Error::new(
            ErrorKind::Unavailable,
            format!("token server {realm} answers with no token"),
        )
    };
    // Its text may hold the token: it is not quoted.
    let token: Token = serde_json::from_slice(&data).map_err(|_| bad())?;
    let value = token
        .token
        .or(token.access_token)
        .filter(|value| !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic()))
        .ok_or_else(bad)?;
    // The protocol's own default is a minute.
    let seconds = token.expires_in.unwrap_or(60).clamp(10, 24 * 3600);
    Ok(Authorization {
        value: format!("Bearer {value}"),
        until: Some(Instant::now() + Duration::from_secs(seconds - seconds / 5)),
    })
}
