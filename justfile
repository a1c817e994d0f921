# Every task. CI runs .ci/run, which needs no just.

default:
    @{{ just_executable() }} --list --unsorted

# what the tests need and this machine lacks: redis-server, etcd, protoc
setup:
    scripts/setup

# all tests, as the README says
test *ARGS: setup
    cargo test --workspace --all-features {{ ARGS }}

# four processes, one kill, one ledger
fleet:
    cargo run --example fleet

fmt:
    cargo fmt --all

lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --all-features -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --all-features

# dependency budgets, and what must not depend on what
deps-check:
    scripts/deps-check

# licences, bans, sources (cargo install cargo-deny)
deny:
    cargo deny check bans licenses sources

# everything that CI runs
ci:
    bash .ci/run

# long: repetitions of whatever is concurrent, minutes of faults, dozens of kills
soak ROUNDS="20" SECONDS="300" KILLS="30":
    scripts/soak {{ ROUNDS }} {{ SECONDS }} {{ KILLS }}

# long: a simulated fleet, one virtual hour a seed
sim SEEDS="10000":
    cargo run --release -p solocron-testkit --example sim -- --seeds {{ SEEDS }}

# long: the larger bounds of the exhaustive check
check-claims:
    cargo run --release -p solocron-testkit --example check

# costs in one process, with criterion's report in target/criterion
bench *ARGS:
    cargo bench -p solocron-benches {{ ARGS }}

# the same as a table of ratios: floors, solocron and rivals in turns
bench-costs *ARGS:
    cargo run --release -p solocron-benches --bin costs -- {{ ARGS }}

# how a contended key changes hands: real processes, floors and rivals in turns
bench-contention *ARGS: setup
    scripts/rivals
    cargo run --release -p solocron-benches --bin contention -- {{ ARGS }}

# one to a million jobs: how late, how heavy, how fast
bench-load *ARGS:
    cargo run --release -p solocron-benches --bin load -- {{ ARGS }}

# what would be published
package:
    cargo package --allow-dirty -p solocron -p solocron-flock -p solocron-socket -p solocron-redis -p solocron-etcd -p solocron-testkit
