"""One run by several workers, each with the program made anew: the driver hands out examples and writes records.

    processes   workers as processes of this machine; `ray_executor` has them on Ray
    driver      who has room, what runs again after a death, who holds what of the limits (`lms.leases`)
    worker      what a worker does with its examples between two reports

A worker that dies is replaced, and its examples run again with its finished calls from the cache, so none is paid
twice; examples that kill worker after worker become records with an error.
"""
