-- What was sent, and for which event.
CREATE TABLE emails (
    event_id  text PRIMARY KEY,
    recipient text NOT NULL,
    sent_at   timestamptz NOT NULL DEFAULT now()
);
