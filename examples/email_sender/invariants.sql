-- name: each_email_sent_once
-- The mail service's own records: what really left the house.
SELECT p.key AS order_id, count(e.id) AS sent
  FROM prove.published p LEFT JOIN prove.effects e ON e.body ->> 'order_id' = p.data ->> 'order_id'
 GROUP BY p.key HAVING count(e.id) <> 1;

-- name: each_email_recorded_once
SELECT p.key AS order_id, count(m.recipient) AS recorded
  FROM prove.published p LEFT JOIN emails m ON m.recipient = p.data ->> 'recipient'
 GROUP BY p.key HAVING count(m.recipient) <> 1;
