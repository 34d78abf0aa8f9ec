//! Where a mount lands: no symlink of an image turns it onto what the runtime
//! mounts itself.

use super::path::{clean, is_within, walk};
use crate::error::{Error, Result, quote};
use crate::fs::Root;

/// What the runtime mounts; the image's content there is never seen.
const SYSTEM: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Whether a mount at this resolved place would cover the root or lie in what
/// the runtime mounts.
pub(super) fn is_system(path: &str) -> bool {
    path == "/" || SYSTEM.iter().any(|dir| is_within(path, dir))
}

/// Where a path leads in the root with these mounts, targets resolved
/// already: what lies under one is not the image's and is taken as it is.
fn landing(root: &Root, path: &str, what: &str, mounted: &[String]) -> Result<String> {
    walk(root, path, what, |here| {
        mounted.iter().any(|target| is_within(here, target))
    })
}

/// The place of a volume that the image declares.
pub(super) fn of_image(root: &Root, declared: &str, mounted: &[String]) -> Result<String> {
    let what = "volume of the image";
    let target = clean(declared, what)?;
    let place = landing(root, &target, what, mounted)?;
    let leads = match is_system(&target) {
        false if is_system(&place) => format!("a symlink leads it to {}, and ", quote(&place)),
        false => return Ok(place),
        true => String::new(),
    };
    Err(Error::precondition(format!(
        "volume {} of the image: {leads}it would cover what the runtime mounts",
        quote(declared)
    )))
}

/// The places of the user's mounts. `/dev` and `/sys` may be meant, when they
/// are named; a symlink of the image never leads there.
pub(super) fn of_user(root: &Root, given: &[&str]) -> Result<Vec<String>> {
    let targets = given
        .iter()
        .map(|target| literal(target))
        .collect::<Result<Vec<_>>>()?;
    // As they are mounted: a folder before what lies in it.
    let mut order: Vec<usize> = (0..targets.len()).collect();
    order.sort_by_key(|index| targets[*index].split('/').count());
    let mut places = targets.clone();
    let mut mounted: Vec<String> = Vec::new();
    for index in order {
        let target = &targets[index];
        if !is_system(target) {
            let place = landing(root, target, "mount target", &mounted)?;
            if is_system(&place) {
                return Err(Error::precondition(format!(
                    "mount target {}: a symlink of the image leads it to {}",
                    quote(target),
                    quote(&place)
                ))
                .with_hint("choose a target that the image does not redirect"));
            }
            places[index] = place;
        }
        if mounted.contains(&places[index]) {
            return Err(Error::invalid(format!(
                "mount target {}: two mounts have it",
                quote(&places[index])
            )));
        }
        mounted.push(places[index].clone());
    }
    Ok(places)
}

/// The target as it is written; what can be told without the root.
pub(super) fn literal(target: &str) -> Result<String> {
    let target = clean(target, "mount target")?;
    if target == "/" {
        return Err(Error::invalid(
            "mount target \"/\": the root file system cannot be covered",
        ));
    }
    if is_within(&target, "/proc") {
        return Err(Error::invalid(format!(
            "mount target {}: nothing is mounted in /proc",
            quote(&target)
        )));
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::super::{BuiltSpec, SpecRequest, build, parse};
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    const LEADING_OUT: [(&str, &str); 9] = [
        ("dev-link", "/dev"),
        ("pts", "/dev/pts"),
        ("sys-link", "../../sys"),
        ("cgroup", "/sys/fs/cgroup"),
        ("proc-link", "/proc"),
        ("self", "/proc/self/root"),
        ("root", "/"),
        ("up", ".."),
        ("hop", "up/dev-link"),
    ];

    fn image(dir: &Path) -> Root {
        for name in ["dev", "proc", "sys", "data/sub", "etc", "run"] {
            std::fs::create_dir_all(dir.join(name)).expect("mkdir");
        }
        for (name, to) in LEADING_OUT.into_iter().chain([
            ("var", "/data"),
            ("data/x", "/dev"),
            ("data/run", "/run"),
            ("dev/x", "/data"),
        ]) {
            symlink(to, dir.join(name)).expect("symlink");
        }
        Root::open(dir).expect("root")
    }

    fn built(root: &Root, volumes: &[&str], mounts: &[&str]) -> Result<BuiltSpec> {
        let volumes: serde_json::Map<_, _> = volumes
            .iter()
            .map(|name| ((*name).to_owned(), serde_json::json!({})))
            .collect();
        let image = serde_json::from_value(serde_json::json!({ "Volumes": volumes }));
        let request = SpecRequest {
            image: Some(image.expect("config")),
            command: vec!["true".into()],
            mounts: mounts
                .iter()
                .map(|text| parse::parse_volume(&format!("/tmp:{text}")).expect("mount"))
                .collect(),
            bundle: "/b".into(),
            volumes_dir: "/v".into(),
            ..SpecRequest::default()
        };
        build(&request, &"0123456789abcdef".parse().expect("id"), root)
    }

    /// Where the binds of this source are.
    fn binds(built: &BuiltSpec, source: &str) -> Vec<String> {
        let mounts = built.spec.mounts().iter().flatten();
        mounts
            .filter(|mount| {
                mount
                    .source()
                    .as_ref()
                    .is_some_and(|s| s.starts_with(source))
            })
            .map(|mount| mount.destination().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_declared_volume_never_covers_what_the_runtime_mounts() {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = image(dir.path());
        for (name, _) in LEADING_OUT {
            let declared = format!("/{name}");
            let error = built(&root, &[&declared], &[]).expect_err(name);
            assert!(error.message().contains(&declared), "{error}");
            assert!(error.message().contains("symlink"), "{error}");
        }
        for bad in [
            "/",
            "/dev",
            "/dev/x",
            "/proc/self",
            "/sys",
            "/x/../dev",
            "/var/x",
        ] {
            assert!(built(&root, &[bad], &[]).is_err(), "{bad}");
        }
        let built = built(&root, &["/var/sub", "/data/sub/", "/new"], &[]).expect("build");
        assert_eq!(binds(&built, "/v/"), ["/new", "/data/sub"]);
        let targets: Vec<_> = built.volumes.iter().map(|v| v.target.as_str()).collect();
        assert_eq!(targets, ["/data/sub", "/new"]);
    }

    #[test]
    fn an_image_does_not_redirect_a_users_mount() {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = image(dir.path());
        for (name, _) in LEADING_OUT {
            for target in [format!("/{name}"), format!("/{name}/new")] {
                if target == "/root/new" || target == "/up/new" {
                    assert_eq!(
                        binds(&built(&root, &[], &[&target]).expect("new"), "/tmp"),
                        ["/new"]
                    );
                    continue;
                }
                let error = built(&root, &[], &[&target]).expect_err(&target);
                assert!(error.message().contains(&target), "{error}");
                assert!(error.message().contains("leads it to"), "{error}");
            }
        }
        for (mounts, want) in [
            // Named as they are, they are meant; the image's /dev is not seen.
            (vec!["/dev"], vec!["/dev"]),
            (vec!["/dev/x"], vec!["/dev/x"]),
            (vec!["/sys"], vec!["/sys"]),
            (vec!["/var/run/sock"], vec!["/run/sock"]),
            // What lies in the user's own folder is not the image's.
            (vec!["/data/x", "/data"], vec!["/data", "/data/x"]),
            (vec!["/var", "/var/x"], vec!["/data", "/data/x"]),
        ] {
            let built = built(&root, &[], &mounts).expect("build");
            assert_eq!(binds(&built, "/tmp"), want, "{mounts:?}");
        }
        // Neither by name nor through a symlink do two get one place.
        for twice in [
            ["/data", "/data"],
            ["/var", "/data"],
            ["/data/", "/x/../data"],
        ] {
            let error = built(&root, &[], &twice).expect_err("two mounts, one place");
            assert!(error.message().contains("two mounts"), "{error}");
        }
        // The user's mount takes the place of the image's volume.
        let built = built(&root, &["/data/sub"], &["/var/sub"]).expect("build");
        assert_eq!(binds(&built, "/v/"), [""; 0]);
    }

    #[test]
    fn generated_files_follow_no_symlink_to_the_system() {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = image(dir.path());
        symlink("/dev/null", dir.path().join("etc/hosts")).expect("symlink");
        let names = |mounts: &[&str]| {
            let built = built(&root, &[], mounts).expect("build");
            binds(&built, "/b/")
        };
        assert_eq!(names(&[]), ["/etc/hostname"]);
        std::fs::rename(dir.path().join("etc"), dir.path().join("conf")).expect("rename");
        symlink("conf", dir.path().join("etc")).expect("symlink");
        assert_eq!(names(&[]), ["/etc/hostname"]);
        for covered in ["/etc", "/conf", "/etc/hostname"] {
            assert_eq!(names(&[covered]), [""; 0], "{covered}");
        }
    }
}
