"""Listeners in, verdicts out.

* :mod:`.supervisor` is what others see, :mod:`.container` what listeners belong to, :mod:`.listeners` how each begins and
  ends, :mod:`.handlers` and :mod:`.rules` what they are decided by;
* a call is a job (:mod:`.jobs`), received on its route (:mod:`.routes`; :mod:`.usual` and :mod:`.natively`: without a handler
  of ours), decided (:mod:`.deciding`, :mod:`.seeking`) in its turn (:mod:`.turns`, :mod:`.backlog`, :mod:`.share`), waited for
  (:mod:`.waiting`, :mod:`.inflight`, :mod:`.looks`, :mod:`.dying`), answered (:mod:`.answering`, :mod:`.carry`);
* :mod:`.role` says which thread receives; :mod:`.leaving` hands listeners over;
* :mod:`.ports` and :mod:`.world_port` are what it all stands on: :mod:`.world` and the native engine, :mod:`.pyengine` with
  :mod:`.poller`, or what :mod:`.driver` lets stand in.
"""
