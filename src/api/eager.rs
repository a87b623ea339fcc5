//! A future that goes on at once when it wakes itself: for the runtime that would be another task that is ready, for which
//! it wakes another thread.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// Rounds before the other tasks of the thread have their turn: half a megabyte of a body that is read ahead by 32 KiB.
const ROUNDS: usize = 16;

/// The future is being polled: whoever wakes it now is heard without waking the task.
const POLLED: u8 = 1;
/// Somebody has woken it since its poll began.
const RUNG: u8 = 2;

/// What the future is woken by.
#[derive(Default)]
struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.fetch_or(RUNG, Ordering::AcqRel) & POLLED == 0 {
            self.task.wake();
        }
    }
}

/// Runs the future to its end. Hyper wakes itself after each piece of a body that its service took: 320 times for 10 MiB,
/// each of which would write to the driver's eventfd and rouse an idle core for nothing.
pub async fn eagerly<F: Future + ?Sized>(mut future: Pin<&mut F>) -> F::Output {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    poll_fn(|task| {
        bell.task.register(task.waker());
        for _ in 0..ROUNDS {
            bell.state.swap(POLLED, Ordering::AcqRel);
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Poll::Ready(output);
            }
            if bell.state.compare_exchange(POLLED, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return Poll::Pending;
            }
        }
        bell.state.swap(0, Ordering::AcqRel);
        task.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;

    /// Counts how often the task is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Wakes itself so often before it ends.
    fn restless(times: usize) -> impl Future<Output = usize> {
        let mut polls = 0;
        poll_fn(move |context| {
            polls += 1;
            if polls > times {
                return Poll::Ready(polls);
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
    }

    fn poll<F: Future>(future: Pin<&mut F>) -> (Poll<F::Output>, usize) {
        let count = Arc::new(Count::default());
        let polled = future.poll(&mut Context::from_waker(&Waker::from(count.clone())));
        (polled, count.0.load(Ordering::Relaxed))
    }

    #[test]
    fn a_future_that_wakes_itself_goes_on_without_waking_its_task() {
        let mut future = pin!(restless(ROUNDS - 1));
        assert_eq!(poll(pin!(eagerly(future.as_mut()))), (Poll::Ready(ROUNDS), 0));
    }

    #[test]
    fn a_future_that_wakes_itself_without_end_leaves_others_their_turn() {
        let mut future = pin!(restless(ROUNDS));
        let mut eager = pin!(eagerly(future.as_mut()));
        assert_eq!(poll(eager.as_mut()), (Poll::Pending, 1));
        assert_eq!(poll(eager), (Poll::Ready(ROUNDS + 1), 0));
    }

    #[test]
    fn a_future_that_waits_is_woken_by_what_it_waits_for() {
        let (tell, told) = tokio::sync::oneshot::channel();
        let mut told = pin!(told);
        let mut eager = pin!(eagerly(told.as_mut()));
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        assert!(eager.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        tell.send(7).unwrap();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(poll(eager).0, Poll::Ready(Ok(7)));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_of_another_thread_is_lost() {
        for _ in 0..10_000 {
            let (tell, told) = tokio::sync::oneshot::channel();
            let teller = tokio::spawn(async move { tell.send(()) });
            let mut told = pin!(told);
            let heard = tokio::time::timeout(Duration::from_secs(30), eagerly(told.as_mut())).await;
            heard.expect("it was told").unwrap();
            teller.await.unwrap().unwrap();
        }
    }
}
