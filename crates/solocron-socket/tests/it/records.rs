//! A record is in one hand at a time, whatever its lock stands on.

use solocron::Kind;
use solocron::lock::{LockBackend, Lost, Mark, MarkAfter, Released, Renewal, Reply};
use solocron_socket::SocketBackend;

use crate::child::{says, start};
use crate::{Place, attempt, claim, enroll, free_port, key, now, plain, sent, win};

/// A tick that is due.
async fn due(backend: &SocketBackend) -> Mark {
    let mark = enroll(backend, "a").await;
    let tick = Mark::from_millis(mark.as_millis() + 1);
    while now() <= tick {
        tokio::task::yield_now().await;
    }
    tick
}

#[tokio::test]
async fn namespaces_share_a_state_directory_and_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        SocketBackend::builder(name).state_dir(dir.path().join("state")).build().unwrap()
    };
    let namespace = Place::new().namespace;
    let (one, two) = (open(&format!("{namespace}-1")), open(&format!("{namespace}-2")));
    assert_ne!(one.state_path(&key("a")), two.state_path(&key("a")));
    enroll(&one, "a").await;
    let tick = due(&two).await;
    let (first, second) = (win(&one, &claim("a", tick)).await, win(&two, &claim("a", tick)).await);
    for (backend, grant) in [(&two, &second), (&one, &first)] {
        assert_eq!(backend.release(&grant.lease, MarkAfter::Done).await.unwrap(), Released::Done);
    }
    for backend in [&one, &two] {
        let again = attempt(backend, &claim("a", tick)).await.unwrap();
        assert!(matches!(again, Reply::Stale { .. }), "{again:?}");
    }
}

#[tokio::test]
async fn a_record_that_is_in_hand_through_another_address_is_an_error_and_stays_as_it_is() {
    let place = Place::new().with_state();
    let on_names = place.open();
    let dir = place.state_dir().unwrap();
    let builder = SocketBackend::builder(&*place.namespace);
    let on_ports = builder.port("a", free_port()).state_dir(dir).build().unwrap();
    let tick = due(&on_names).await;
    let mut holder = start(&place, "hold", "a");
    says(&mut holder);
    let before = std::fs::read(on_names.state_path(&key("a")).unwrap()).unwrap();
    for error in [
        attempt(&on_ports, &plain("a")).await.unwrap_err(),
        attempt(&on_ports, &claim("a", tick)).await.unwrap_err(),
        on_ports.set_note(&key("a"), 0, b"paused").await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::Misconfigured, "{error}");
        let text = error.to_string();
        assert!(text.contains("another address or network namespace"), "{text}");
    }
    assert_eq!(std::fs::read(on_names.state_path(&key("a")).unwrap()).unwrap(), before);
    holder.send("release").unwrap();
    assert_eq!(says(&mut holder), "released");
    // One after the other is fine, and each sees what the other did.
    let grant = win(&on_ports, &claim("a", tick)).await;
    assert!(attempt(&on_names, &plain("a")).await.is_err(), "the same the other way round");
    on_ports.release(&grant.lease, MarkAfter::Done).await.unwrap();
    let again = attempt(&on_names, &claim("a", tick)).await.unwrap();
    assert!(matches!(again, Reply::Stale { .. }), "{again:?}");
}

#[tokio::test]
async fn processes_of_one_namespace_with_different_state_directories_are_told_so() {
    for place in [Place::new(), Place::new().with_state()] {
        let other = Place::new().with_state();
        let mut holder = start(&place, "hold", "a");
        says(&mut holder);
        let builder = SocketBackend::builder(&*place.namespace);
        let elsewhere = builder.state_dir(other.state_dir().unwrap()).build().unwrap();
        for error in [
            attempt(&elsewhere, &plain("a")).await.unwrap_err(),
            elsewhere.set_note(&key("a"), 0, b"paused").await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), Kind::Misconfigured, "{error}");
            assert!(error.to_string().contains("another state directory"), "{error}");
        }
        let same = attempt(&place.open(), &plain("a")).await.unwrap();
        assert!(matches!(same, Reply::Busy { .. }), "{same:?}");
    }
}

#[tokio::test]
async fn a_lock_whose_record_is_deleted_or_replaced_stays_taken_until_its_lease_is_over() {
    let place = Place::new().with_state();
    let backend = place.open();
    for replace in [false, true] {
        let request = plain("a");
        let grant = win(&backend, &request).await;
        let path = backend.state_path(&key("a")).unwrap();
        if replace {
            std::fs::copy(&path, path.with_extension("copy")).unwrap();
            std::fs::rename(path.with_extension("copy"), &path).unwrap();
        } else {
            std::fs::remove_file(&path).unwrap();
        }
        for request in [&plain("a"), &request] {
            let busy = attempt(&place.open(), request).await.unwrap();
            assert!(matches!(busy, Reply::Busy { holder: Some(_) }), "{busy:?}");
        }
        let error = place.open().set_note(&key("a"), 0, b"").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        let mut other = start(&place, "try", "a");
        let said = says(&mut other);
        assert!(said.starts_with("Busy"), "{said}");
        let found = backend.renew(&[&grant.lease], sent()).await.remove(0).unwrap();
        assert_eq!(found, Renewal::NotOwner(Lost::FileReplaced));
        let fence = grant.fence;
        if replace {
            let released = backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
            assert!(matches!(released, Released::NotOwner { .. }), "{released:?}");
        } else {
            drop(grant);
        }
        let next = win(&place.open(), &plain("a")).await;
        assert!(next.fence > fence, "the clock goes on where the record does not");
    }
}

#[tokio::test]
async fn a_claim_for_which_there_is_no_thread_is_not_used_up() {
    let place = Place::new().with_state();
    let tick = due(&place.open()).await;
    let part = format!("claim-without-a-thread {}", tick.as_millis());
    let mut process = start(&place, &part, "a");
    let said = says(&mut process);
    assert!(said.starts_with("Unavailable") && said.contains("too many open files"), "{said}");
    let said = says(&mut process);
    assert!(said.starts_with("Ok(Won"), "{said}");
}
