//! Published schedulers, used as their documentation says.

pub(crate) mod apalis;
pub(crate) mod tokio_cron_scheduler;

use solocron::jiff::Timestamp;
use solocron::jiff::tz::TimeZone;

use crate::fires::Fires;

/// A pattern with seconds first, for the ticks of `fires`.
fn pattern(fires: &Fires) -> String {
    if !fires.is_once() {
        return "* * * * * *".into();
    }
    let first = i64::try_from(fires.first().as_secs()).expect("this era");
    let first = Timestamp::from_second(first).expect("this era").to_zoned(TimeZone::UTC);
    first.strftime("%-S %-M %-H %-d %-m *").to_string()
}
