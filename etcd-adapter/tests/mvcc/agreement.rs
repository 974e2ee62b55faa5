//! Apply and reads against the model: answers, events, revisions, reads at every revision.

use etcd_adapter::command::{Command, Range, Txn};
use etcd_adapter::mvcc::{Outcome, Refusal};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::generate;
use crate::model::{Model, Seen};
use crate::replica::{Replica, entries};

/// What the model says of a plain read.
fn model_range(model: &Model, request: &Range) -> Result<Seen, Refusal> {
    let revision = if request.revision <= 0 { model.revision } else { request.revision };
    if revision > model.revision {
        return Err(Refusal::FutureRevision);
    }
    if revision < model.compact_revision {
        return Err(Refusal::Compacted);
    }
    Ok(Model::range(request, &model.history[&revision]))
}

fn agree(commands: Vec<Command>, reads: Vec<Range>, txns: Vec<Txn>, forget_every: usize) -> Result<(), TestCaseError> {
    let (mut replica, _) = Replica::memory();
    let mut model = Model::new();
    for (i, (position, body)) in entries(commands.into_iter().map(|command| vec![command])).iter().enumerate() {
        let applied = replica.apply(*position, body);
        replica.write();
        prop_assert_eq!(applied.outcome, Outcome::Taken);
        if i == 0 {
            continue;
        }
        let command = &body.commands[0];
        let events_before = model.events.len();
        let mut expected = model.apply(*position, command);
        let reply = &applied.replies[0];
        if let (Command::LeaseGrant { id: 0, ttl }, Ok(Seen::Lease(id, _)), Ok(answer)) =
            (command, &mut expected, &reply.result)
        {
            // The id is ours to choose; the model takes it over.
            let Seen::Lease(chosen, _) = replica.seen(answer) else { panic!("a grant answers {answer:?}") };
            prop_assert!(chosen > 0 && !model.leases.contains_key(&chosen));
            model.leases.insert(chosen, (*ttl, *position));
            *id = chosen;
        }
        let seen = reply.result.as_ref().map(|answer| replica.seen(answer)).map_err(Clone::clone);
        prop_assert_eq!(seen, expected, "{:?}", command);
        prop_assert_eq!(reply.revision, model.revision);
        prop_assert_eq!(replica.events(&applied.changes), &model.events[events_before..]);
        {
            let state = replica.state.read();
            prop_assert_eq!(state.revision(), model.revision);
            prop_assert_eq!(state.compact_revision(), model.compact_revision);
            prop_assert_eq!(state.index().live(), model.now().len() as u64);
            let leases: Vec<_> = state.leases().iter().map(|(id, lease)| (*id, lease.ttl, lease.renewed_at)).collect();
            prop_assert_eq!(leases, model.leases.iter().map(|(id, (ttl, at))| (*id, *ttl, *at)).collect::<Vec<_>>());
            for (id, lease) in state.leases() {
                let attached: Vec<_> = lease.keys.iter().map(|key| key.to_vec()).collect();
                let expected: Vec<_> =
                    model.now().values().filter(|kv| kv.lease == *id).map(|kv| kv.key.clone()).collect();
                prop_assert_eq!(attached, expected);
            }
        }
        if i % forget_every == 0 {
            replica.store.flush().unwrap();
            replica.forget(1 + i % 3);
        }
        for request in &reads {
            prop_assert_eq!(replica.range(request), model_range(&model, request), "{:?}", request);
        }
        for txn in &txns {
            let expected = model.apply(*position, &Command::Txn(txn.clone()));
            prop_assert_eq!(replica.read_txn(txn), expected, "{:?}", txn);
        }
    }
    // Every revision that can be read, in full, after all.
    for (revision, content) in model.history.range(model.compact_revision..) {
        let request = Range { revision: *revision, ..everything() };
        prop_assert_eq!(replica.range(&request), Ok(Model::range(&request, content)));
    }
    Ok(())
}

fn everything() -> Range {
    let zero = bytes::Bytes::from_static(b"\0");
    Range { key: zero.clone(), range_end: zero, ..Range::default() }
}

proptest! {
    #![proptest_config(generate::cases(400))]
    #[test]
    fn every_command_does_and_answers_what_the_model_says(
        commands in vec(generate::command(), 1..40),
        reads in vec(generate::range(), 0..10),
        txns in vec(generate::read_txn(), 0..5),
        forget_every in 1..8usize,
    ) {
        agree(commands, reads, txns, forget_every)?;
    }
}
