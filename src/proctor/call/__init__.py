"""One notified call: what it says, who makes it, and what may be answered.

* :mod:`.call` is all of it; :mod:`.notified` is what registers say, :mod:`.reading` and :mod:`.arguments` what memory says,
  decoded by :mod:`.decode` and filled by :mod:`.filling`; :mod:`.looking` is what may change while one looks;
* :mod:`.caller`, with :mod:`.taking`, :mod:`.credentials`, :mod:`.identity` and :mod:`.ancestry`: who makes it;
* :mod:`.path`: where its paths lead;
* :mod:`.verdict`, and :mod:`.done` of what was done by others: what is answered;
* :mod:`.strace` and :mod:`.structured`: how logs show it, without :mod:`.passwords`; :mod:`.messages`: what it sends;
* :mod:`.ports`: what it needs from outside.
"""
