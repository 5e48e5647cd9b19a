//! Tokens that PyJWT made, and keys as OpenSSL writes them.

use super::*;
use ring::hmac;
use serde_json::json;

const SECRET: &[u8] = b"a secret that is shared and 32 bytes or longer, as it has to be: 64 bytes.";
const RSA: &str = "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA0Q8x9LzYCVvxvyrz7mm3\n/jHbSBUIz2n7MJvQsIjIItMMoAXDRd/O5rBFwBIUBiBF6RP1IYMhIGCsxK3cFpXg\n2oPEXFBOvUt5v1Jb2sA+fzFDuFA08bD3wNCF7tKR1oi7P8brXMVzStoaexGQjCSq\nulXG5drHd6xTTlwmoAUHOGutGHqivyXHkejayn3nwceYepwuEwuyIymswrBomRSD\nV6Vt1Nl4dWdfGogjqVOcGJYtfCoBzyt2h7pkejcpc9vRxuRuydho+ITFfyRwddkj\nsEPnG1lOE+hyEkx9NFHnZZ/w0XTS0eBXvSFnyHiiWyiNsHuogMBpCbrLf+qyoiV0\newIDAQAB\n-----END PUBLIC KEY-----\n";
const RSA_PKCS1: &str = "-----BEGIN RSA PUBLIC KEY-----\nMIIBCgKCAQEA0Q8x9LzYCVvxvyrz7mm3/jHbSBUIz2n7MJvQsIjIItMMoAXDRd/O\n5rBFwBIUBiBF6RP1IYMhIGCsxK3cFpXg2oPEXFBOvUt5v1Jb2sA+fzFDuFA08bD3\nwNCF7tKR1oi7P8brXMVzStoaexGQjCSqulXG5drHd6xTTlwmoAUHOGutGHqivyXH\nkejayn3nwceYepwuEwuyIymswrBomRSDV6Vt1Nl4dWdfGogjqVOcGJYtfCoBzyt2\nh7pkejcpc9vRxuRuydho+ITFfyRwddkjsEPnG1lOE+hyEkx9NFHnZZ/w0XTS0eBX\nvSFnyHiiWyiNsHuogMBpCbrLf+qyoiV0ewIDAQAB\n-----END RSA PUBLIC KEY-----\n";
const P256: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEYTJxmNCfitAsLvQlVYmCxrZKUAur\nAZO7KYLwmD4RBqrDizPW5e87ZVDh3fjOMnGvk4Bri2hP61V+oKcW5vAQvA==\n-----END PUBLIC KEY-----\n";
const P384: &str = "-----BEGIN PUBLIC KEY-----\nMHYwEAYHKoZIzj0CAQYFK4EEACIDYgAENSDFUPh8boj2s0hxnjnXcPtHau6Y9Qzc\nf1f1nhLJlilSaw37hpgCqXAmAmXe/2gtwJk/SHDmERdtDFXGTmNW/UTUOH4N+hhM\nR4SQCroPmdZACzezzKFAlPTuhaQXS5b/\n-----END PUBLIC KEY-----\n";
const ED25519: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAI+nsMBH7l1UP82U0uGwWWxTOgSBssk+18ycfBaIodFw=\n-----END PUBLIC KEY-----\n";
const JWKS: &str = r#"{"keys": [{"kty": "RSA", "n": "0Q8x9LzYCVvxvyrz7mm3_jHbSBUIz2n7MJvQsIjIItMMoAXDRd_O5rBFwBIUBiBF6RP1IYMhIGCsxK3cFpXg2oPEXFBOvUt5v1Jb2sA-fzFDuFA08bD3wNCF7tKR1oi7P8brXMVzStoaexGQjCSqulXG5drHd6xTTlwmoAUHOGutGHqivyXHkejayn3nwceYepwuEwuyIymswrBomRSDV6Vt1Nl4dWdfGogjqVOcGJYtfCoBzyt2h7pkejcpc9vRxuRuydho-ITFfyRwddkjsEPnG1lOE-hyEkx9NFHnZZ_w0XTS0eBXvSFnyHiiWyiNsHuogMBpCbrLf-qyoiV0ew", "e": "AQAB"}, {"kty": "EC", "crv": "P-256", "x": "YTJxmNCfitAsLvQlVYmCxrZKUAurAZO7KYLwmD4RBqo", "y": "w4sz1uXvO2VQ4d34zjJxr5OAa4toT-tVfqCnFubwELw", "kid": "ES256", "alg": "ES256"}, {"kty": "EC", "crv": "P-384", "x": "NSDFUPh8boj2s0hxnjnXcPtHau6Y9Qzcf1f1nhLJlilSaw37hpgCqXAmAmXe_2gt", "y": "wJk_SHDmERdtDFXGTmNW_UTUOH4N-hhMR4SQCroPmdZACzezzKFAlPTuhaQXS5b_"}, {"x": "I-nsMBH7l1UP82U0uGwWWxTOgSBssk-18ycfBaIodFw", "kty": "OKP", "crv": "Ed25519"}, {"kty": "oct", "k": "YSBzZWNyZXQgdGhhdCBpcyBzaGFyZWQgYW5kIDMyIGJ5dGVzIG9yIGxvbmdlciwgYXMgaXQgaGFzIHRvIGJlOiA2NCBieXRlcy4", "use": "sig"}, {"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}, {"kty": "RSA", "use": "enc", "n": "!", "e": "!"}]}"#;
/// Signed as HS256 with the text of the RSA key.
const CONFUSED: &str = "eyJhbGciOiAiSFMyNTYiLCAidHlwIjogIkpXVCJ9.eyJzdWIiOiAiYWwiLCAiZXhwIjogMjAwMDAwMDAwMCwgImlzcyI6ICJtZSIsICJhdWQiOiBbInJpbmdtcSIsICJ4Il0sICJncm91cHMiOiBbImNyZXciXSwgImFjbCI6IHsicHViIjogWyJwLyR7Y2xpZW50aWR9LyMiXX19.9TKRvcYF3uPAP0vd8YoyNI9qaIWF4jhTtEJ90yF7OYM";
const UNSIGNED: &str = "eyJhbGciOiAibm9uZSJ9.eyJzdWIiOiAiYWwiLCAiZXhwIjogMjAwMDAwMDAwMCwgImlzcyI6ICJtZSIsICJhdWQiOiBbInJpbmdtcSIsICJ4Il0sICJncm91cHMiOiBbImNyZXciXSwgImFjbCI6IHsicHViIjogWyJwLyR7Y2xpZW50aWR9LyMiXX19.";
/// `sub` al, `exp` 2000000000, `iss` me, `aud` ringmq and x, `groups` crew, `acl` p/${clientid}/#.
const TOKENS: [(&str, &str); 12] = [
    (
        "HS256",
        "eyJhbGciOiJIUzI1NiIsImtpZCI6IkhTMjU2IiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbCIsImV4cCI6MjAwMDAwMDAwMCwiaXNzIjoibWUiLCJhdWQiOlsicmluZ21xIiwieCJdLCJncm91cHMiOlsiY3JldyJdLCJhY2wiOnsicHViIjpbInAvJHtjbGllbnRpZH0vIyJdfX0.I3qPV53-ZqcFdwoai_prGYwOK43IRd0jIFDtJVsDIAw",
    ),
    (
        "HS384",
        "eyJhbGciOiJIUzM4NCIsImtpZCI6IkhTMzg0IiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbCIsImV4cCI6MjAwMDAwMDAwMCwiaXNzIjoibWUiLCJhdWQiOlsicmluZ21xIiwieCJdLCJncm91cHMiOlsiY3JldyJdLCJhY2wiOnsicHViIjpbInAvJHtjbGllbnRpZH0vIyJdfX0.gEvWtkyhPNbLiQ3gF5GQbfpePx2rTY7vWA9wFPldvT8ZDuIYaXdhRLlX1A0TxoFI",
    ),
    (
        "HS512",
        "eyJhbGciOiJIUzUxMiIsImtpZCI6IkhTNTEyIiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbCIsImV4cCI6MjAwMDAwMDAwMCwiaXNzIjoibWUiLCJhdWQiOlsicmluZ21xIiwieCJdLCJncm91cHMiOlsiY3JldyJdLCJhY2wiOnsicHViIjpbInAvJHtjbGllbnRpZH0vIyJdfX0.hiJgLVgffjdceIkMA72Ll5HJMvuOA6zPGqXF09tKlen0MtAxjyjoTnnAAMTSsqh6PBsZ9NfD4a39iRrY1l152A",
    ),
    (
        "RS256",
        "eyJhbGciOiJSUzI1NiIsImtpZCI6IlJTMjU2IiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbCIsImV4cCI6MjAwMDAwMDAwMCwiaXNzIjoibWUiLCJhdWQiOlsicmluZ21xIiwieCJdLCJncm91cHMiOlsiY3JldyJdLCJhY2wiOnsicHViIjpbInAvJHtjbGllbnRpZH0vIyJdfX0.USEuIayGsOUqRbbfZSmOo1BGdZDJ3wl7pQq0gCXWe21HJW7X98ZBlhswE965OfvR193Jlmrre32fILPvpwtkmdExMUdcBtJfCIQtZRAd9B7-50qbn7xg35pL8nE3XYYCJOjed9m74b074zVmKPUyDf6BTsErGs8JNeLPDu2hjYUNzs77t5rqT0dNYSokjhsebb_-0LYrlfBkm3J13NEQ-k2bimYmKY0TWDQ3MXlvOOCWaWQ7vgrIqz1XWcS0kta_OErxdBYig2BZipx9F5fPRMTH-UuZfXePxsmf-sIBhsF497tEw64l_Sk8svv_lhDw_o656jTOHSL7m0DmFbtcUg",
    ),
    (
        "RS384",
        "eyJhbGciOiJSUzM4NCIsImtpZCI6IlJTMzg0IiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbCIsImV4cCI6MjAwMDAwMDAwMCwiaXNzIjoibWUiLCJhdWQiOlsicmluZ21xIiwieCJdLCJncm91cHMiOlsiY3JldyJdLCJhY2wiOnsicHViIjpbInAvJHtjbGllbnRpZH0vIyJdfX0.vG27sN36cbKXyQcRVC4YBI-8tAHp3nZLOsgnQL2bIZjNUB0s1HWsZwp-k_dHr4lz1O8xG2t633tEA47e-aPyOzWjxrCqTxopkoRXAL17Z3aQukd_HN8xKHlI3QXvKfyteI4X3yoAYYQSw6V6DCz5PSDCXmdbe-DcaviBGclv2WFgCXCr1Ej2D8yzsCFNqIXWaO_H9l1Z_CfYGHHQwQ4eT_frvNFvgpXGcKOguN7cx6hCOfL0z-vEchnYqQji8XkmXzfwz9hZBD1qwopp-ITTUPDxxWkljBIK2-Yxz-ua-DyJyoifs1j98rDWVMqtxjWFJsaKySFnUeW0E9D4JH3THg",
    ),
    (
        "RS512",
        "eyJhbGciOiJSUzUxMiIsImtpZCI6IlJTNTEyIiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbCIsImV4cCI6MjAwMDAwMDAwMCwiaXNzIjoibWUiLCJhdWQiOlsicmluZ21xIiwieCJdLCJncm91cHMiOlsiY3JldyJdLCJhY2wiOnsicHViIjpbInAvJHtjbGllbnRpZH0vIyJdfX0.iHxURhJrCM467M_oSqGFSBCTss0VHB0WMfIAc1F_qE0zYrOrYdmTQGgAzlwET2RXPy3WVXmeXzBHBXr2P0SMpK9ifNdFab68g3T_x6vx3bw1DLp43KtrkEZWoFhdIy-1Od4dVYxCbSEg9w4a6QoQKTbUwnCQcMbo9gN3z_Km6FrMvTH6yyMZc19psJm9rKXwTeatxqHEEe676ihxYLzvVgXA3c5nICoTFnMIdurlmEhGMZc6UltB-ZBr64KS03AB8OmAg5YpBPk1eL55-seIeDY5b1OlLMkZow1bBiH5K2gH4wZI6BYqsA_WkVRnTLwn8XZpxKEk_Pk8zZKr3PJb9A",
    ),
    (
        "PS256",
        "eyJhbGciOiJQUzI1NiIsImtpZCI6IlBTMjU2IiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbCIsImV4cCI6MjAwMDAwMDAwMCwiaXNzIjoibWUiLCJhdWQiOlsicmluZ21xIiwieCJdLCJncm91cHMiOlsiY3JldyJdLCJhY2wiOnsicHViIjpbInAvJHtjbGllbnRpZH0vIyJdfX0.XLI8SKUji8--VVIpRwz7YC4pJvrORsS-W3p87iTEnl3frr6bRAUZOmAMshOhwwamaSCiqdOOaE18uU7jRdq0404QcHW7UpQOG1MbJekXA6Z7xOWq6SXmyk_E6XsGfofWGi9Pwc80hOsbHgqP-sxQyGvAxe1Tb2z1nuUXz-yycmTvoc6q-X0XbbQJtN15CnSCJtZmlYb7QiI3xd5eRpNtla6YWUaWt0bod_sfoeF24S1uvPTx9gwncBmTe_jwO53TT-GLNfdoQHQvZYlwE3WQFMA-oUqg1A1U44OWSfJqpssDadSVa2lmzduBSLaAIhO6AdjRu57QnMA5YO68GagRTg",
    ),
    (
        "PS384",
        "eyJhbGciOiJQUzM4NCIsImtpZCI6IlBTMzg0IiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbCIsImV4cCI6MjAwMDAwMDAwMCwiaXNzIjoibWUiLCJhdWQiOlsicmluZ21xIiwieCJdLCJncm91cHMiOlsiY3JldyJdLCJhY2wiOnsicHViIjpbInAvJHtjbGllbnRpZH0vIyJdfX0.IGv_yQjJ9ePrMUCI6CYbvFoUt1AMT_9V0z1hRPtpeYNjuTHmJ55t_bhyl8Rg7wMM-OCoFsnjyob60aIXUvy-wMkOvZbzxnK7vIKPXVGa7ov0ga2DEe-lDbWBA7FhD7mfnHZS5sJYKUuG2TQITvFZzCuwIEqHt33nKuT5JxEjhu6Mz_bIYyskB47H2jBDIAPyeYtRaSUo8wP5-A3AYSHVhIkrwr393ywCQLnwvEugYoTKmkM_MpBQjZnb_qzpb6En53bOyzER84_DwZillh2zs3wGpdMKvGez2f4TA16HixwMmDD_c24TOEHoJq-lmez_LsTkznzTHmKQVyu3qIVqMQ",
    ),
    (
        "PS512",
        "eyJhbGciOiJQUzUxMiIsImtpZCI6IlBTNTEyIiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbCIsImV4cCI6MjAwMDAwMDAwMCwiaXNzIjoibWUiLCJhdWQiOlsicmluZ21xIiwieCJdLCJncm91cHMiOlsiY3JldyJdLCJhY2wiOnsicHViIjpbInAvJHtjbGllbnRpZH0vIyJdfX0.AsftTjZ3OQpUmRfue0Ng-ouEd6jyDDj0r2zrWAE9AwkDfzUTVwFqU5Gw60jN2KZf5FtffbHnNrlrr1JawC90PjiD0eJ3ZjBBZNGRiiLrE6K6YBBJLn-CIevPL9aZE0In4qukskeSpxcaO6BuNOq_dOdMe99qLE5zWvw9vufwjvkbGnXAhjRrV5z2aWpS9Okjs-9tPCF__6XQovDTGOOTKi5ESy0StJdBC0f3yFehAw1IOZ7IBT71arE_laZpMDYzOBE22kFk_JTiqJvubR9QP9m48hURkdKB21qZacEl1XWIzac7GMAnjAqUfTEIGbb58e0ho_ywqGKRF7f4GnhLQQ",
    ),
    (
        "ES256",
        "eyJhbGciOiJFUzI1NiIsImtpZCI6IkVTMjU2IiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbCIsImV4cCI6MjAwMDAwMDAwMCwiaXNzIjoibWUiLCJhdWQiOlsicmluZ21xIiwieCJdLCJncm91cHMiOlsiY3JldyJdLCJhY2wiOnsicHViIjpbInAvJHtjbGllbnRpZH0vIyJdfX0.CkRijUXtji5XveQXJVRlVei-0k1F00jTnOeIX-W3-iPp4GdDZOhelHaov2EUO1MK09-OnRaaRHvsIPVCb4jOiQ",
    ),
    (
        "ES384",
        "eyJhbGciOiJFUzM4NCIsImtpZCI6IkVTMzg0IiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbCIsImV4cCI6MjAwMDAwMDAwMCwiaXNzIjoibWUiLCJhdWQiOlsicmluZ21xIiwieCJdLCJncm91cHMiOlsiY3JldyJdLCJhY2wiOnsicHViIjpbInAvJHtjbGllbnRpZH0vIyJdfX0.BPR7QVmOXPi5AiawqJzzQRJZToZuIMP7BpZtKCZJ_UaffojWq5Fhf2vIzTQo7CosbFuPw4bMxSabs--GhH1nr487bzsfLv2vacEVicKP2c5sl0XLHQFL_QeOiW-0WNzz",
    ),
    (
        "EdDSA",
        "eyJhbGciOiJFZERTQSIsImtpZCI6IkVkRFNBIiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbCIsImV4cCI6MjAwMDAwMDAwMCwiaXNzIjoibWUiLCJhdWQiOlsicmluZ21xIiwieCJdLCJncm91cHMiOlsiY3JldyJdLCJhY2wiOnsicHViIjpbInAvJHtjbGllbnRpZH0vIyJdfX0.CTOXvCO43L5pUD7AL1EAxre_mh9bD7yXYUh8tYF7CnUAtLbAPY_3NiyFN28sY__fjBjWRSDlj3OfTZqRaRInAQ",
    ),
];

const NOW: Bearer<'static> = Bearer {
    client_id: "c1",
    now_s: 1_900_000_000,
};

fn keys(pem: &str) -> TokenKeys {
    TokenKeys::from_pem("keys", pem).expect("valid")
}

fn who(keys: &TokenKeys, token: &str) -> Result<Identity, &'static str> {
    verify(keys, &TokenRules::default(), token.as_bytes(), NOW)
}

/// A token with any header and claims, signed as HS256.
fn signed(header: &Value, claims: &Value) -> String {
    let base64 = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", base64(header), base64(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()));
    format!("{message}.{tag}")
}

#[test]
fn each_key_takes_its_own_algorithms_and_no_others() {
    let secret = TokenKeys::from_secret("keys", SECRET).expect("valid");
    for (keys, family) in [
        (&secret, "HS"),
        (&keys(RSA), "RS PS"),
        (&keys(RSA_PKCS1), "RS PS"),
        (&keys(P256), "ES256"),
        (&keys(P384), "ES384"),
        (&keys(ED25519), "EdDSA"),
    ] {
        for (algorithm, token) in TOKENS {
            let is_ours = family
                .split(' ')
                .any(|prefix| algorithm.starts_with(prefix));
            let identity = who(keys, token);
            assert_eq!(identity.is_ok(), is_ours, "{family} {algorithm}");
        }
        assert!(who(keys, CONFUSED).is_err(), "{family}");
        assert!(who(keys, UNSIGNED).is_err(), "{family}");
    }
}

#[test]
fn a_key_set_takes_all_and_a_key_only_what_it_says() {
    let set = TokenKeys::from_jwks("keys", JWKS).expect("valid");
    let is_taken = |token: &[u8]| verify(&set, &TokenRules::default(), token, NOW).is_ok();
    for (algorithm, token) in TOKENS {
        let identity = who(&set, token).expect(algorithm);
        assert_eq!(identity.username.as_deref(), Some("al"));
        assert_eq!(identity.groups, ["crew".into()]);
        assert!(identity.rules.is_some());
        assert_eq!(identity.expires_at_ms, Some(2_000_000_010_000));
        // Something of the signature, and of the claims.
        for at in [token.len() - 10, token.find('.').expect("a token") + 5] {
            let mut forged = token.to_owned().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert!(!is_taken(&forged), "{algorithm}");
        }
    }
    assert!(who(&set, CONFUSED).is_err() && who(&set, UNSIGNED).is_err());
    let other_id = JWKS.replace("\"kid\": \"ES256\"", "\"kid\": \"other\"");
    let set = TokenKeys::from_jwks("keys", &other_id).expect("valid");
    let es256 = TOKENS
        .iter()
        .find(|(algorithm, _)| *algorithm == "ES256")
        .expect("it is one of them");
    assert!(who(&set, es256.1).is_err());
}

#[test]
fn claims_are_demanded() {
    let keys = TokenKeys::from_secret("keys", SECRET).expect("valid");
    let header = json!({"alg": "HS256"});
    let rules = TokenRules {
        audience: Some("ringmq".into()),
        issuer: Some("me".into()),
        ..TokenRules::default()
    };
    let good = json!({"sub": "al", "exp": 1_900_000_001, "nbf": 1_900_000_000, "iss": "me", "aud": "ringmq", "clientid": "c1"});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        if value.is_null() {
            claims.as_object_mut().expect("an object").remove(name);
        } else {
            claims[name] = value;
        }
        verify(&keys, &rules, signed(&header, &claims).as_bytes(), NOW)
    };
    for (name, value) in [
        ("x", json!(1)),
        ("exp", json!(1_899_999_991)),
        ("exp", json!(1_900_000_000.5)),
        ("nbf", json!(1_900_000_010)),
        ("nbf", Value::Null),
        ("clientid", Value::Null),
        ("aud", json!(["other", "ringmq"])),
    ] {
        assert!(with(name, value).is_ok(), "{name}");
    }
    for (name, value, says) in [
        ("exp", json!(1_899_999_990), "the token has expired"),
        ("exp", Value::Null, "the token has no expiry"),
        ("exp", json!("soon"), "a time in the token is none"),
        ("exp", json!(-1), "a time in the token is none"),
        ("exp", json!(1e300), "a time in the token is none"),
        ("nbf", json!(1_900_000_011), "the token is not valid yet"),
        ("iss", json!("you"), "the token is of another issuer"),
        ("iss", Value::Null, "the token is of another issuer"),
        ("aud", json!(["a"]), "the token is for another audience"),
        ("aud", Value::Null, "the token is for another audience"),
        (
            "clientid",
            json!("c2"),
            "the token is for another Client Identifier",
        ),
        ("sub", Value::Null, "the token names no user"),
        ("sub", json!(""), "the token names no user"),
        ("sub", json!(7), "the token names no user"),
        (
            "acl",
            json!({"pub": ["a+"]}),
            "`+` and `#` must have a level of the topic for themselves",
        ),
        (
            "groups",
            json!("crew"),
            "the groups are no list of at most 64 names",
        ),
    ] {
        assert_eq!(with(name, value), Err(says), "{name}");
    }
    let eternal = TokenRules {
        needs_expiry: false,
        username_claim: "name".into(),
        ..TokenRules::default()
    };
    let token = signed(&header, &json!({"name": "bo"}));
    let identity = verify(&keys, &eternal, token.as_bytes(), NOW).expect("valid");
    assert_eq!(identity.username.as_deref(), Some("bo"));
    assert_eq!(identity.expires_at_ms, None);
}

#[test]
fn what_is_no_token_is_refused() {
    let keys = TokenKeys::from_secret("keys", SECRET).expect("valid");
    let claims = json!({"sub": "al", "exp": 2_000_000_000});
    assert!(who(&keys, &signed(&json!({"alg": "HS256"}), &claims)).is_ok());
    for header in [
        json!({"alg": "HS256", "crit": ["exp"]}),
        json!({"typ": "JWT"}),
        json!({"alg": "hs256"}),
        json!({"alg": "none"}),
        json!([]),
    ] {
        assert!(who(&keys, &signed(&header, &claims)).is_err(), "{header}");
    }
    for token in [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c",
        "....",
        "eyJhbGciOiJIUzI1NiJ9..",
        "é.é.é",
    ] {
        assert!(who(&keys, token).is_err(), "{token}");
    }
    assert!(verify(&keys, &TokenRules::default(), &[0xFF], NOW).is_err());
}

#[test]
fn files_without_keys_are_told() {
    let pem = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
    for (text, says) in [
        (String::new(), "keys: there is no key that can be used"),
        (pem("EC PRIVATE KEY"), "keys:1: a private key"),
        (format!("\n{}", pem("PRIVATE KEY")), "keys:2: a private key"),
        (pem("CERTIFICATE"), "keys:1: a certificate"),
        (pem("PUBLIC KEY"), "keys:1: the key is not RSA of 2048 bits"),
        (pem("RSA PUBLIC KEY"), "keys:1: the RSA key is broken"),
        (
            pem("PUBLIC KEY").replace("AAAA", "!"),
            "keys:1: what is in the PEM block",
        ),
        (
            "-----BEGIN PUBLIC KEY-----\n".into(),
            "keys:1: a beginning without an end",
        ),
        (
            "-----END PUBLIC KEY-----\n".into(),
            "keys:1: an end without a beginning",
        ),
    ] {
        let error = TokenKeys::from_pem("keys", &text).expect_err(&text);
        assert!(error.to_string().starts_with(says), "{error}");
    }
    for (text, says) in [
        ("{", "keys:1: this is no JSON"),
        ("{}", "keys: there is no list `keys`"),
        (r#"{"keys": []}"#, "keys: there is no key that can be used"),
        (
            r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#,
            "keys: key 1: a secret of less than 32 bytes",
        ),
        (
            r#"{"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}"#,
            "keys: key 1: a coordinate",
        ),
        (
            r#"{"keys": [{"kty": "RSA", "n": "AA"}]}"#,
            "keys: key 1: a field is missing",
        ),
    ] {
        let error = TokenKeys::from_jwks("keys", text).expect_err(text);
        assert!(error.to_string().starts_with(says), "{error}");
    }
    assert!(TokenKeys::from_secret("keys", b"short\n").is_err());
    assert!(TokenKeys::from_secret("keys", RSA.as_bytes()).is_err());
}
