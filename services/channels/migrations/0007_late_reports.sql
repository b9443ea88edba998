-- What a channel should have heard by now is looked for every minute: among what is due, and what was refused. What has
-- long been told lies in neither (test_what_is_told_is_not_walked_to_find_what_is_late).
CREATE INDEX progress_late ON progress (tell_by) WHERE due_at IS NOT NULL;
CREATE INDEX progress_refused ON progress_steps (order_id) WHERE state = 'refused';
