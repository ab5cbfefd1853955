//! Drives the sqlxmq crate 0.6, as its users have it, against the extension in the database that
//! DATABASE_URL names. Prints a line for each thing that it saw, and exits with 1 at the first that
//! is not as the crate's documentation has it.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Pool, Postgres};
use sqlxmq::{job, Checkpoint, CurrentJob, JobBuilder, JobRegistry, JobRunnerOptions};
use uuid::Uuid;

type Outcome = Result<(), Box<dyn Error + Send + Sync + 'static>>;

fn check(what: &str, holds: bool) {
    println!("{} - {what}", if holds { "ok" } else { "not ok" });
    if !holds {
        std::process::exit(1);
    }
}

/// Waits until the condition holds; false after 20 seconds.
async fn until(condition: impl Fn() -> bool) -> bool {
    for _ in 0..2000 {
        if condition() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

/// Waits until a job is gone from the queue; false after 20 seconds.
async fn is_gone(pool: &Pool<Postgres>, id: Uuid) -> bool {
    for _ in 0..2000 {
        if !sqlxmq::exists(pool, id).await.unwrap() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[job(channel_name = "registry", ordered, retries = 3, backoff_secs = 2.0)]
async fn greet(mut current_job: CurrentJob, greeting: &'static str, count: Arc<AtomicUsize>) -> Outcome {
    let who: Option<String> = current_job.json()?;
    check("a registered job has its context and payload", (greeting, who.as_deref()) == ("Hello", Some("John")));
    count.fetch_add(1, Ordering::SeqCst);
    current_job.complete().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::<Postgres>::connect(&std::env::var("DATABASE_URL")?).await?;
    sqlxmq::clear_all(&pool).await?;

    // A registry, as in the crate's documentation.
    let count = Arc::new(AtomicUsize::new(0));
    let mut registry = JobRegistry::new(&[greet]);
    registry.set_context("Hello");
    registry.set_context(count.clone());
    let mut runner = registry.runner(&pool).set_channel_names(&["registry"]).run().await?;
    for _ in 0..3 {
        greet.builder().set_json("John")?.spawn(&pool).await?;
    }
    check("the registry runs ordered jobs one after the other", until(|| count.load(Ordering::SeqCst) == 3).await);
    runner.stop().await;

    // Clearing and asking.
    let kept = JobBuilder::new("x").set_channel_name("kept").spawn(&pool).await?;
    let cleared = JobBuilder::new("x").set_channel_name("cleared").spawn(&pool).await?;
    sqlxmq::clear(&pool, &["cleared"]).await?;
    check("clear takes the jobs of one channel", !sqlxmq::exists(&pool, cleared).await?);
    check("and leaves those of another", sqlxmq::exists(&pool, kept).await?);
    sqlxmq::clear_all(&pool).await?;
    check("clear_all takes all", !sqlxmq::exists(&pool, kept).await?);

    // Failure by dropping, check-points, transactions, payload bytes.
    let attempts = Arc::new(AtomicUsize::new(0));
    let seen = attempts.clone();
    let mut runner = JobRunnerOptions::new(&pool, move |mut job: CurrentJob| {
        let seen = seen.clone();
        tokio::spawn(async move {
            check("bytes arrive as they were sent", job.raw_bytes() == Some(&[0u8, 255][..]));
            if seen.fetch_add(1, Ordering::SeqCst) == 0 {
                let mut checkpoint = Checkpoint::new();
                checkpoint.set_json(&"half done").unwrap().set_extra_retries(1);
                let transaction = job.pool().begin().await.unwrap();
                job.checkpoint_with_transaction(transaction, &checkpoint).await.unwrap();
                return;
            }
            check("a retry starts from the check-point", job.json::<String>().unwrap().as_deref() == Some("half done"));
            job.keep_alive(Duration::from_secs(30)).await.unwrap();
            let transaction = job.pool().begin().await.unwrap();
            job.complete_with_transaction(transaction).await.unwrap();
        });
    })
    .run()
    .await?;
    let id = JobBuilder::new("steps")
        .set_retries(1)
        .set_retry_backoff(Duration::from_millis(300))
        .set_raw_bytes(&[0, 255])
        .spawn(&pool)
        .await?;
    check("a job that was dropped is retried and completes", is_gone(&pool, id).await);
    check("in its second attempt", attempts.load(Ordering::SeqCst) == 2);
    runner.stop().await;

    // Two-phase commit on an ordered channel, delay, sending in a transaction.
    let order = Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let log = order.clone();
    let mut runner = JobRunnerOptions::new(&pool, move |mut job: CurrentJob| {
        let log = log.clone();
        tokio::spawn(async move {
            log.lock().unwrap().push(job.name().to_owned());
            job.complete().await.unwrap();
        });
    })
    .set_concurrency(2, 4)
    .run()
    .await?;
    let reserved = JobBuilder::new("reserved")
        .set_ordered(true)
        .set_commit_interval(Some(Duration::from_secs(60)))
        .spawn(&pool)
        .await?;
    JobBuilder::new("behind it").set_ordered(true).spawn(&pool).await?;
    let mut transaction = pool.begin().await?;
    JobBuilder::new("rolled back").spawn(&mut *transaction).await?;
    transaction.rollback().await?;
    JobBuilder::new("passing").spawn(&pool).await?;
    check("an unordered job passes a reservation", until(|| order.lock().unwrap().len() == 1).await);
    sqlxmq::commit(&pool, &[reserved]).await?;
    check("a commit lets the channel go", until(|| order.lock().unwrap().len() == 3).await);
    check("in its order, without what was rolled back",
        *order.lock().unwrap() == ["passing", "reserved", "behind it"]);
    let expiring = JobBuilder::new("expiring").set_commit_interval(Some(Duration::from_millis(200))).spawn(&pool).await?;
    check("a reservation that is not committed disappears", is_gone(&pool, expiring).await);
    let delayed = JobBuilder::new("delayed").set_delay(Duration::from_millis(200)).spawn(&pool).await?;
    check("a delayed job runs when it is due", is_gone(&pool, delayed).await);
    check("and nothing else has run", order.lock().unwrap().len() == 4);
    runner.stop().await;

    // A single job, as tests do it.
    let id = JobBuilder::new("one").spawn(&pool).await?;
    JobRunnerOptions::new(&pool, |mut job: CurrentJob| {
        tokio::spawn(async move { job.complete().await.unwrap() });
    })
    .test_one()
    .await?;
    check("test_one runs one job", !sqlxmq::exists(&pool, id).await?);
    println!("the crate's client works unchanged");
    Ok(())
}
