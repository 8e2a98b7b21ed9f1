-- name: each_order_reserved_once
SELECT p.key AS order_id, count(r.id) AS reservations
  FROM prove.published p LEFT JOIN reservations r ON r.order_id = p.data ->> 'order_id'
 GROUP BY p.key HAVING count(r.id) <> 1;

-- name: stock_adds_up
SELECT s.sku, s.total, s.free, coalesce(sum(r.quantity), 0) AS reserved
  FROM stock s LEFT JOIN reservations r USING (sku)
 GROUP BY s.sku HAVING s.free + coalesce(sum(r.quantity), 0) <> s.total;
