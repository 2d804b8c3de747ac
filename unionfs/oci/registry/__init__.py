"""The distribution protocol: references to hosts, hosts to blobs, and back.

    mirrors, explain, config  which hosts are asked, in which order, and what one failing means
    challenge, credentials    what a host wants to see, and what docker knows to show
    failures, observer        what a failure means and how long to wait; who hears of it
    auth, transport, client   one exchange with one host; one method for each thing it can be asked
    trail, download           who is asked next, and one blob from one host
    foreign, pull             from hosts into the store
    tags                      what else a repository has
    upload, push              from the store to a registry

Imports go up this list only. Start reading at `pull`.
"""
