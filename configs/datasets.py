"""How public data sets are read from tables of your own: names for sets of source and data keys.

`--config=configs/nif.py:kuairand,source.path=<events file or stem>` is the source "files" with the
settings below; what the text or a flag sets wins. Tables are tidy, one row an event, with user_id,
item_id and ts (unix seconds), items in <stem>_items and users in <stem>_users beside them.
"""

_KUAIRAND_ITEM = "category,author_id,music_id,music_type,upload_type,video_type,video_duration:16"
_KUAIRAND_USER = (
    "user_active_degree",
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
    *(f"onehot_feat{k}" for k in range(18)),
)

PRESETS = {
    # KuaiRand-Pure (CC BY-SA 4.0): impressions of videos in 15 tabs; the label is the click. Up to
    # 50 earlier videos of each user come as lists (<stem>_history), without times of their own.
    "kuairand": {
        "source.action_columns": "label,is_like,long_view",
        "source.item_columns": _KUAIRAND_ITEM,
        "source.user_columns": ",".join(_KUAIRAND_USER),
        "source.history": "beside",
        "source.history_columns": "item_id=watch_seq,timestamp_ms=last_time_ms,"
        "action=like_seq+long_watch_seq",
    },
    # The same log as a benchmark of ranking within users: the label is a long view. The periods are
    # in a column. Train is rows of scene "history" alone, whose order is known and whose times are
    # not; it contains no tab of the log, so that no scene is read. Repeated rows count. The other
    # columns (click, play_time_ms) are outcomes of their event and are not read. Tables of another
    # stem are named with source.items and source.users.
    "kuairand_long_view": {
        "source.columns": "scene=",
        "source.order_only": "scene=history",
        "source.item_columns": _KUAIRAND_ITEM,
        "source.user_columns": ",".join(_KUAIRAND_USER),
        "data.split": "column:period",
        "data.duplicates": "keep",
        "train.metric": "rank",
        # Chosen by rank on validation with cut histories.
        "train.epochs": "2.0",
        "train.weight_decay": "1.0",
    },
    # UCI Online Retail II (CC BY 4.0): lines of invoices in two years; countries are scenes. An
    # invoice has one second, so its lines do not see each other; returns are history only. All
    # events are bought, so the generator's label head has nothing to learn.
    "online_retail": {
        "source.action_columns": "action,value:8",
        "source.item_columns": "title,price_median:16",
        "source.unlabelled": "action=return",
        "data.ties": "exclude",
        "data.negatives": "1",
    },
    # MovieTweetings (MIT): ratings of 0 to 10 from tweets; the label is a rating of 8 or more.
    "movietweetings": {
        "source.action_columns": "value",
        "source.label_from": "value>=8",
    },
    # MovieLens latest-small (research only): ratings of .5 to 5 and tags, which are two scenes; the
    # label is a rating of 4 or more, and tags are history only.
    "ml_latest_small": {
        "source.columns": "scene=action",
        "source.action_columns": "action,value",
        "source.label_from": "value>=4",
        "data.split": "temporal_user",
    },
    # Amazon Reviews 2023: ratings of 1 to 5 in several categories, which are scenes; the label is a
    # rating of 4 or more.
    "amazon23": {
        "source.action_columns": "value",
        "source.item_columns": "title,category,brand,price:16",
        "source.label_from": "value>=4",
    },
}
